"""Plans: what is placed fits where it is placed, what can't be placed is refused with reports, and the built-in default stands."""

from __future__ import annotations

import pytest

from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.catalogue import Catalogue, UnknownModelError, load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan, parse_plan
from services.sizing.types import Engine, Host, ImageWorkload, Plan, TextWorkload, Verdict

GIB = 2**30
FLAGS = ("avx2", "fma", "f16c", "bmi2")
HOST = Host(24 * GIB, 20 * GIB, "Xeon", 2, FLAGS, "x86_64")
FAST16 = Host(24 * GIB, 20 * GIB, "Xeon", 2, (*FLAGS, "avx512f", "avx512_bf16"), "x86_64")
SMALL = Host(8 * GIB, 6 * GIB, "Celeron", 2, ("sse4_2",), "x86_64")
CATALOGUE = load_catalogue()


def check(plan: Plan) -> Plan:
    """What must hold of every plan."""
    assert parse_plan(dump_plan(plan)) == plan
    for card in plan.cards:
        mine = [placement for placement in plan.placements if placement.card_id == card.id]
        assert sum(placement.report.bill.total_bytes for placement in mine if placement.report.bill) <= card.total_bytes
    for placement in plan.placements:
        assert placement.report.fits
        assert placement.report.workload == placement.workload
        assert placement.report.choice == placement.choice
        assert placement.choice.reasons
    return plan


@pytest.mark.parametrize("host", [HOST, FAST16])
def test_the_built_in_default_on_a_cpu(host: Host) -> None:
    plan = check(make_plan(host, (simulated_cpu_card(4 * GIB),), CATALOGUE))
    placed = {placement.model_id: placement for placement in plan.placements}
    assert set(placed) == {"smollm2-135m-instruct", "digits-sd"}
    chat, image = placed["smollm2-135m-instruct"], placed["digits-sd"]
    assert chat.choice.engine is Engine.VLLM
    assert chat.choice.dtype == ("bfloat16" if host is FAST16 else "float32")
    assert isinstance(chat.workload, TextWorkload)
    assert chat.workload.context_tokens == 2048
    assert chat.workload.sequences >= 4
    bill = chat.report.bill
    assert bill is not None
    per_token = 30 * 2 * 3 * 64 * (2 if host is FAST16 else 4)
    assert bill.kv_cache_bytes == per_token * 2048 * chat.workload.sequences, "the pool holds every sequence at full context"
    assert isinstance(image.workload, ImageWorkload)
    assert image.workload.width_px >= 64
    assert all(placement.report.verdict is Verdict.FITS and placement.report.simulated for placement in plan.placements)
    assert not plan.refusals


def test_the_light_default() -> None:
    plan = check(make_plan(HOST, (simulated_cpu_card(2 * GIB),), CATALOGUE, engine=Engine.LLAMACPP))
    engines = {placement.model_id: placement.choice.engine for placement in plan.placements}
    assert engines == {"smollm2-135m-instruct": Engine.LLAMACPP, "digits-sd": Engine.DIFFUSERS}


def test_a_cpu_that_runs_no_language_model_hears_why() -> None:
    plan = check(make_plan(SMALL, (simulated_cpu_card(4 * GIB),), CATALOGUE))
    assert [placement.model_id for placement in plan.placements] == ["digits-sd"]
    assert "avx2" in plan.refusals[0].reports[0].reason


def test_a_budget_too_small_for_anything() -> None:
    plan = check(make_plan(HOST, (simulated_cpu_card(GIB // 4),), CATALOGUE))
    assert not plan.placements
    assert {refusal.model_id for refusal in plan.refusals} == {"smollm2-135m-instruct", "digits-sd"}


def test_no_cards_and_an_empty_catalogue() -> None:
    assert make_plan(HOST, (), CATALOGUE).notes
    plan = make_plan(HOST, (simulated_cpu_card(GIB),), Catalogue(()))
    assert not plan.placements
    assert len(plan.notes) == 2


def test_a_mixed_rig() -> None:
    cards = parse_cards("P104-100 8GB@gen1x1:2,RTX 3060 Ti:2,RX 580 8GB,RTX 3090")
    plan = check(make_plan(HOST, cards, CATALOGUE))
    assert len(plan.placements) == 6
    kinds = [CATALOGUE.get(placement.model_id).kind for placement in plan.placements]
    assert kinds.count("image") == 1
    amd = next(placement for placement in plan.placements if placement.card_id == "card-4")
    assert amd.choice.environment == "llamacpp-vulkan"
    big = next(placement for placement in plan.placements if placement.card_id == "card-5")
    assert (CATALOGUE.get(big.model_id).params or 0) > 10e9


def test_small_hosts_prefer_llamacpp_and_run_out_honestly() -> None:
    plan = check(make_plan(SMALL, parse_cards("RTX 3060 Ti:24"), CATALOGUE))
    texts = [placement for placement in plan.placements if isinstance(placement.workload, TextWorkload)]
    assert texts
    assert all(placement.choice.engine is Engine.LLAMACPP for placement in texts)
    promised = sum(placement.report.host.resident_bytes or 0 for placement in plan.placements if placement.report.host)
    assert SMALL.ram_bytes is not None
    assert promised <= SMALL.ram_bytes
    assert any("host RAM" in note for note in plan.notes)


def test_host_ram_is_shared_so_that_every_card_works() -> None:
    plan = check(make_plan(SMALL, parse_cards("P104-100 8GB:6"), CATALOGUE))
    assert len(plan.placements) == 6


def test_wishes() -> None:
    cards = parse_cards("P104-100 8GB:2,RTX 3060 12GB:2")
    plan = check(make_plan(HOST, cards, CATALOGUE, want=[("llama-3.1-8b-instruct", 2), ("sdxl", 1), ("sdxl-turbo", 1)]))
    assert sorted(placement.model_id for placement in plan.placements) == [
        "llama-3.1-8b-instruct", "llama-3.1-8b-instruct", "sdxl", "sdxl-turbo",
    ]  # fmt: skip
    assert len({placement.card_id for placement in plan.placements}) == 4
    assert len({placement.id for placement in plan.placements}) == 4


def test_a_wish_that_fits_nowhere_is_refused_with_a_report_for_each_kind_of_card() -> None:
    plan = check(make_plan(HOST, parse_cards("P104-100 8GB:2,RTX 3060 Ti"), CATALOGUE, want=[("qwen2.5-32b-instruct", 1)]))
    assert not plan.placements
    refusal = plan.refusals[0]
    assert refusal.model_id == "qwen2.5-32b-instruct"
    assert [report.card_name for report in refusal.reports] == ["NVIDIA P104-100", "NVIDIA GeForce RTX 3060 Ti"]
    assert all(report.verdict is Verdict.DOES_NOT_FIT and report.hints for report in refusal.reports)
    assert any("is not split" in note and "311" in note for note in plan.notes), "three cards together would hold it"


def test_two_models_share_a_card_when_both_fit() -> None:
    plan = check(make_plan(HOST, parse_cards("RTX 3090"), CATALOGUE, want=[("llama-3.1-8b-instruct", 1), ("sdxl-turbo", 1)]))
    assert len(plan.placements) == 2


def test_more_copies_than_cards() -> None:
    plan = check(make_plan(HOST, parse_cards("RTX 3090"), CATALOGUE, want=[("qwen2.5-0.5b-instruct", 3)]))
    assert len(plan.placements) == 1
    assert any("copy already" in note for note in plan.notes)


def test_an_unknown_wish() -> None:
    with pytest.raises(UnknownModelError):
        make_plan(HOST, parse_cards("RTX 3090"), CATALOGUE, want=[("llama-9", 1)])
