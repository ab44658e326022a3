"""Wishes that have no room beside the others: they take turns on a card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.cards import parse_cards
from services.sizing.catalogue import MODELS_FOLDER, Catalogue, load_model
from services.sizing.plan import decide, make_plan
from services.sizing.planfile import PlanFileError, dump_plan, parse_plan
from services.sizing.types import Host, Plan
from services.sizing.units import GIB

HOST = Host(16 * GIB, 14 * GIB, "two cores", 2, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
MODELS = Catalogue(tuple(load_model(MODELS_FOLDER / f"{ident}.yaml") for ident in
                         ("llama-3.1-8b-instruct", "qwen2.5-1.5b-instruct", "qwen2.5-32b-instruct", "sd-1.5")))


def planned(*want: str, on_demand: bool = True) -> Plan:
    return decide(HOST, parse_cards("GTX 1070:1"), MODELS, want=[(name, 1) for name in want], on_demand=on_demand).plan


def test_a_chat_and_an_image_model_take_turns() -> None:
    plan = planned("llama-3.1-8b-instruct", "sd-1.5")
    assert {p.model_id: p.on_demand for p in plan.placements} == {"llama-3.1-8b-instruct": True, "sd-1.5": True}
    assert not plan.refusals
    assert any("take turns" in note for note in plan.notes)
    sizes = [p.report.need_bytes or 0 for p in plan.placements]
    assert sum(sizes) > plan.cards[0].total_bytes >= max(sizes)
    assert parse_plan(dump_plan(plan)) == plan


def test_what_fits_together_stays_together() -> None:
    plan = planned("qwen2.5-1.5b-instruct")
    assert [p.on_demand for p in plan.placements] == [False]
    assert make_plan(HOST, plan.cards, MODELS, want=[("qwen2.5-1.5b-instruct", 1)]) == plan, "on_demand changes nothing there"


def test_what_fits_no_card_is_refused_all_the_same() -> None:
    plan = planned("llama-3.1-8b-instruct", "qwen2.5-32b-instruct")
    assert [refusal.model_id for refusal in plan.refusals] == ["qwen2.5-32b-instruct"]
    assert [p.on_demand for p in plan.placements] == [False]


def test_without_it_the_second_is_refused() -> None:
    plan = planned("llama-3.1-8b-instruct", "sd-1.5", on_demand=False)
    assert len(plan.placements) + len(plan.refusals) == 2
    assert not any(p.on_demand for p in plan.placements)


def test_a_plan_whose_always_loaded_models_leave_no_room_for_turns_is_refused() -> None:
    plan = planned("llama-3.1-8b-instruct", "sd-1.5")
    stays, turns = plan.placements
    text = dump_plan(replace(plan, placements=(replace(stays, on_demand=False), turns)))
    with pytest.raises(PlanFileError, match="add up to"):
        parse_plan(text)
