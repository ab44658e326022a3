"""Goals and wish lists: what each is for, what the terms say, and that a large rig is planned in time."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.catalogue import Catalogue, load_catalogue
from services.sizing.plan import Goal, decide, make_plan
from services.sizing.plan_goals import work_of
from services.sizing.plan_options import group_cards, options_of
from services.sizing.plan_split import tensor_parallel_refusal
from services.sizing.quality import merits
from services.sizing.types import Card, Host, Plan, Verdict

GIB = 2**30
HOST = Host(32 * GIB, 28 * GIB, "Xeon", 2, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
SMALL = replace(HOST, ram_bytes=8 * GIB, ram_available_bytes=7 * GIB)
CATALOGUE = load_catalogue()
RIG = "P104-100 8GB@gen1x1:6,RTX 3060 Ti:2,RX 580 8GB:4"


def total_tok_s(plan: Plan) -> float:
    return sum(p.report.speed.decode_tok_s or 0.0 for p in plan.placements if p.report.speed)


def total_merit(plan: Plan) -> float:
    worth = merits(CATALOGUE.models)
    return sum(worth[p.model_id].points for p in plan.placements if CATALOGUE.get(p.model_id).kind == "chat")


def test_each_goal_is_best_at_what_it_is_for() -> None:
    cards = parse_cards("RTX 3060 12GB:2,RTX 3060 Ti:2,P106-100:2")
    plans = {goal: make_plan(HOST, cards, CATALOGUE, goal=goal) for goal in Goal}
    for goal, plan in plans.items():
        assert len(plan.placements) == 6, goal
    assert max(plans, key=lambda goal: total_tok_s(plans[goal])) is Goal.THROUGHPUT
    assert max(plans, key=lambda goal: total_merit(plans[goal])) is Goal.QUALITY
    models = [p.model_id for p in plans[Goal.COVERAGE].placements]
    assert len(set(models)) == len(models)
    assert {work_of(CATALOGUE.get(model)) for model in models} == {work_of(model) for model in CATALOGUE.models}


@pytest.mark.parametrize("goal", [Goal.QUALITY, Goal.THROUGHPUT])
def test_one_card_of_several_makes_images_and_a_single_one_chats(goal: Goal) -> None:
    several = make_plan(HOST, parse_cards("RTX 3060 Ti:3"), CATALOGUE, goal=goal)
    single = make_plan(HOST, parse_cards("RTX 3060 Ti"), CATALOGUE, goal=goal)
    assert [CATALOGUE.get(p.model_id).kind for p in several.placements].count("image") == 1
    assert [CATALOGUE.get(p.model_id).kind for p in single.placements] == ["chat"]


def test_throughput_does_not_take_toys() -> None:
    plan = make_plan(HOST, parse_cards("RTX 3090"), CATALOGUE, goal=Goal.THROUGHPUT)
    assert (CATALOGUE.get(plan.placements[0].model_id).params or 0) > 10e9


def test_a_goal_places_nothing_poor() -> None:
    for goal in Goal:
        for placement in make_plan(SMALL, parse_cards(RIG), CATALOGUE, goal=goal).placements:
            assert placement.report.verdict is Verdict.FITS
            assert placement.choice.offload == "none"
            assert placement.model_id != "digits-sd", "the project's own toy"


def test_coverage_shares_a_card_only_where_cards_are_few() -> None:
    one = make_plan(HOST, parse_cards("RTX 3060 12GB"), CATALOGUE, goal=Goal.COVERAGE)
    assert {work_of(CATALOGUE.get(p.model_id)) for p in one.placements} == {work_of(model) for model in CATALOGUE.models}
    many = make_plan(HOST, parse_cards("RTX 3060 12GB:4"), CATALOGUE, goal=Goal.COVERAGE)
    assert len({p.card_id for p in many.placements}) == len(many.placements) == 4


def test_a_goal_on_a_cpu_card() -> None:
    card = simulated_cpu_card(4 * GIB)
    fast = make_plan(HOST, (card,), CATALOGUE, goal=Goal.THROUGHPUT)
    assert {p.model_id for p in fast.placements} == {"smollm2-135m-instruct", "digits-sd"}
    assert any("not predicted" in note for note in fast.notes)
    good = make_plan(HOST, (card,), CATALOGUE, goal=Goal.QUALITY)
    assert (CATALOGUE.get(good.placements[0].model_id).params or 0) > 1e9


def test_wishes_prefer_the_smallest_card_that_is_enough_and_never_double_up() -> None:
    plan = make_plan(HOST, parse_cards("RTX 3090,RTX 3060 Ti:2"), CATALOGUE, want=[("llama-3.2-3b-instruct", 2)])
    assert sorted(p.card_id for p in plan.placements) == ["card-1", "card-2"]


def test_one_of_each_wish_comes_before_a_second_of_any() -> None:
    wanted = [("llama-3.2-1b-instruct", 2), ("qwen2.5-7b-instruct", 2), ("bge-m3", 1)]
    plan = make_plan(SMALL, parse_cards("RTX 3060 12GB:2"), CATALOGUE, want=wanted)
    assert {p.model_id for p in plan.placements} == {"llama-3.2-1b-instruct", "qwen2.5-7b-instruct", "bge-m3"}


def test_models_that_share_a_card_stay_inside_it() -> None:
    wanted = [("qwen2.5-3b-instruct", 1), ("qwen2.5-1.5b-instruct", 1), ("bge-m3", 1), ("sd-1.5", 1)]
    plan = make_plan(HOST, parse_cards("RTX 3090"), CATALOGUE, want=wanted)
    assert len(plan.placements) == 4
    assert sum(p.report.need_bytes or 0 for p in plan.placements) <= plan.cards[0].total_bytes


def test_the_same_wish_twice_is_two_copies() -> None:
    plan = make_plan(HOST, parse_cards("RTX 3060 Ti:3"), CATALOGUE, want=[("qwen2.5-0.5b-instruct", 1), ("Qwen/Qwen2.5-0.5B-Instruct", 1)])
    assert [p.model_id for p in plan.placements] == ["qwen2.5-0.5b-instruct"] * 2


def test_host_ram_that_runs_out_is_said_in_the_refusal() -> None:
    tiny = replace(HOST, ram_bytes=3 * GIB, ram_available_bytes=2 * GIB)
    plan = make_plan(tiny, parse_cards("RTX 3060 Ti:12"), CATALOGUE, want=[("llama-3.1-8b-instruct", 12)])
    assert 0 < len(plan.placements) < 12
    assert "RAM" in plan.refusals[0].reports[0].reason
    assert any(f"{len(plan.placements)} of 12 copies" in note for note in plan.notes)


def test_the_explanation_adds_up() -> None:
    found = decide(SMALL, parse_cards(RIG), CATALOGUE, goal=Goal.QUALITY, explained=True).explanation
    assert found is not None
    assert found.complete
    assert found.host_mib is not None
    assert found.host_used_mib <= found.host_mib
    assert sorted(card for chosen in found.chosen for card in chosen.card_ids) == sorted(f"card-{i}" for i in range(12))
    for chosen in found.chosen:
        assert chosen.choice.points == pytest.approx(sum(term.points for term in chosen.choice.terms))
        assert chosen.runner_up is not None
        assert chosen.runner_up.models != chosen.choice.models
        better = chosen.runner_up.points > chosen.choice.points
        assert ("host RAM" in chosen.why) == better, "only host RAM can speak against more points"


def test_the_built_in_default_explains_nothing_and_needs_no_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highspy", None)
    decision = decide(HOST, (simulated_cpu_card(4 * GIB),), CATALOGUE, explained=True)
    assert decision.explanation is None
    assert len(decision.plan.placements) == 2


def test_plans_are_repeatable() -> None:
    cards = parse_cards("P104-100 8GB:3,RX 580 8GB:2")
    for goal in Goal:
        assert make_plan(SMALL, cards, CATALOGUE, goal=goal) == make_plan(SMALL, cards, CATALOGUE, goal=goal)


def test_twelve_cards_and_the_whole_catalogue_in_time() -> None:
    assert len(CATALOGUE.models) >= 60
    started = time.perf_counter()
    plan = make_plan(SMALL, parse_cards(RIG), CATALOGUE)
    assert time.perf_counter() - started < 5.0, "about half a second on one quiet core; the margin is for busy machines"
    assert len(plan.placements) == 12


def test_nothing_to_choose_from() -> None:
    plan = make_plan(HOST, parse_cards("RTX 3060 Ti:2"), Catalogue(()))
    assert not plan.placements
    assert any("nothing on 2 of 2" in note for note in plan.notes)


def test_sizing_is_asked_once_for_each_kind_of_card(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = parse_cards("P104-100 8GB:6,RTX 3060 Ti:6")
    assert [len(group.cards) for group in group_cards(cards)] == [6, 6]
    busy = tuple(replace(card, free_bytes=card.total_bytes - (i + 1) * 2**20) for i, card in enumerate(cards))
    assert [len(group.cards) for group in group_cards(busy)] == [6, 6]
    assert group_cards(busy)[0].have_bytes == busy[5].free_bytes


def test_options_stay_inside_the_card() -> None:
    for group in group_cards(parse_cards("P104-100 8GB,RTX 3060 Ti,RX 580 8GB")):
        for model in CATALOGUE.models[::9]:
            for option in options_of(group, model, HOST, None, every_level=True):
                assert option.need_bytes <= group.have_bytes or option.verdict is Verdict.TIGHT


def test_tensor_parallel_is_refused_with_numbers_and_an_alternative() -> None:
    riser = parse_cards("P104-100 8GB@gen1x1:2")
    sentence = tensor_parallel_refusal(riser, 2)
    assert "gen1 x1: 0.20 GB/s" in sentence
    assert "608" in sentence
    assert "237" in sentence
    assert "--want MODEL:2" in sentence
    wide: tuple[Card, ...] = parse_cards("RTX 3090@gen4x16:2")
    assert "608" not in tensor_parallel_refusal(wide, 2)
    assert "one worker for each card" in tensor_parallel_refusal(wide, 2)
