"""A measured peak above the estimate is added to the bill, and said; one below changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.bill import make_bill
from services.sizing.calibration import card_kind, with_measured_bytes
from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan, parse_plan
from services.sizing.types import Card, FitReport, Host, Measured, TextWorkload
from services.sizing.units import GIB, MIB

HOST = Host(8 * GIB, 7 * GIB, "Celeron", 2)
CARD = parse_cards("RTX 3060 Ti")[0]
MODEL = load_catalogue().get("llama-3.1-8b-instruct")
ASKED = TextWorkload(4096, 2)


def answer(card: Card, workload: TextWorkload = ASKED, variant_id: str | None = None) -> FitReport:
    return fit(card, MODEL, HOST, variant_id=variant_id, workload=workload)


def measured(report: FitReport, beyond_bytes: int, **change: object) -> Measured:
    assert report.bill
    assert report.choice
    assert report.workload
    peak = report.bill.total_bytes - report.bill.reserve_bytes + beyond_bytes
    row = Measured(MODEL.id, report.variant_id or "", replace(report.choice, reasons=()), report.workload, peak, "0.32.0")
    return replace(row, **change)  # type: ignore[arg-type]


def test_what_was_measured_beyond_the_estimate_is_added_and_said() -> None:
    before = answer(CARD)
    after = answer(replace(CARD, measured=(measured(before, 256 * MIB),)), variant_id=before.variant_id)
    assert before.bill is not None
    assert after.bill is not None
    assert after.bill.measured_extra_bytes == 256 * MIB
    assert after.need_bytes == before.bill.total_bytes + 256 * MIB
    assert "measured beyond that 0.25 GiB" in after.reason
    assert after.choice is not None
    assert any("so 0.25 GiB is added" in reason and "RTX 3060 Ti 8GB" in reason for reason in after.choice.reasons)
    assert isinstance(before.largest, TextWorkload)
    assert isinstance(after.largest, TextWorkload)
    assert after.largest.context_tokens < before.largest.context_tokens


def test_the_worked_number() -> None:
    """4.00 GiB + 0.30 reserve, measured 4.25: the bill is 0.25 GiB more, reserve and all."""
    report = answer(CARD)
    assert report.choice
    variant = next(v for v in MODEL.variants if v.id == report.variant_id)
    bill = make_bill(MODEL, variant, report.choice, ASKED)
    card = replace(CARD, measured=(measured(report, GIB // 4),))
    found, _ = with_measured_bytes(bill, card, MODEL, variant, report.choice)
    assert found.total_bytes == bill.total_bytes + GIB // 4
    assert found.reserve_bytes == bill.reserve_bytes


@pytest.mark.parametrize("change", [{"model_id": "another"}, {"variant_id": "another"}, {"peak_bytes": GIB}], ids=str)
def test_what_is_of_something_else_or_below_changes_nothing(change: dict[str, object]) -> None:
    before = answer(CARD)
    assert answer(replace(CARD, measured=(measured(before, GIB, **change),))) == before
    assert before.choice
    other_way = replace(before.choice, reasons=(), enforce_eager=not before.choice.enforce_eager)
    assert answer(replace(CARD, measured=(measured(before, GIB, choice=other_way),))) == before


def test_it_counts_for_other_workloads_of_the_same_variant_and_names_who_said_so() -> None:
    row = measured(answer(CARD), 100 * MIB, origin="rig2.json")
    report = answer(replace(CARD, measured=(row,)), TextWorkload(2048, 1))
    assert report.bill is not None
    assert report.bill.measured_extra_bytes == 100 * MIB
    assert report.choice is not None
    assert any("reported by rig2.json" in reason for reason in report.choice.reasons)


def test_a_plan_uses_it_and_its_file_keeps_it() -> None:
    cards = parse_cards("RTX 3060 Ti:2")
    first = make_plan(HOST, cards, load_catalogue(), want=[(MODEL.id, 1)])
    report = first.placements[0].report
    taught = tuple(replace(card, measured=(measured(report, 200 * MIB),)) for card in cards)
    plan = make_plan(HOST, taught, load_catalogue(), want=[(MODEL.id, 1)])
    bill = plan.placements[0].report.bill
    assert bill is not None
    assert bill.measured_extra_bytes == 200 * MIB
    assert bill.total_bytes <= cards[0].total_bytes
    assert parse_plan(dump_plan(plan)) == plan
    assert sum("is added" in reason for reason in plan.placements[0].choice.reasons) == 1


def test_kinds() -> None:
    assert card_kind(CARD) == "RTX 3060 Ti 8GB"
    assert card_kind(replace(CARD, spec=None, name="Odd card")) == "Odd card"
