"""What lanes learn of themselves: their speed, their prompts, their slots."""

from __future__ import annotations

import math

import pytest

from services.gateway.lane import PREFIXES, Lane
from services.gateway.lane_slots import Measured, SlotLearner, waited_inside
from services.gateway.lane_speed import LaneSpeed
from services.gateway.scheduler import ModelQueue, Need, Ticket


def test_the_prediction_is_the_seed() -> None:
    speed = LaneSpeed(0.02)
    assert speed.unit_s == 0.02
    speed.learn(0.03)
    assert speed.unit_s == pytest.approx(0.022)


def test_worked_number_of_the_average() -> None:
    speed = LaneSpeed()
    speed.learn(1.0)
    speed.learn(2.0)
    assert speed.unit_s == pytest.approx(1.2)


def test_five_times_slower_is_known_after_two_requests() -> None:
    speed = LaneSpeed(0.02)
    speed.learn(0.1)
    assert speed.unit_s == pytest.approx(0.024), "one alone proves little"
    speed.learn(0.1)
    assert speed.unit_s == pytest.approx(0.1)


def test_two_strange_ones_in_opposite_directions_prove_nothing() -> None:
    speed = LaneSpeed(0.02)
    speed.learn(0.2)
    speed.learn(0.001)
    assert 0.015 < (speed.unit_s or 0) < 0.03


def test_a_strange_one_is_forgotten_after_a_usual_one() -> None:
    speed = LaneSpeed(0.02)
    for measured_s in (0.1, 0.02, 0.1):
        speed.learn(measured_s)
    assert (speed.unit_s or 0) < 0.03


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_measurement_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="no measurement"):
        LaneSpeed(0.02).learn(bad)


def test_worked_number_of_rest() -> None:
    speed = LaneSpeed(0.02)
    speed.unit_s = 0.1
    speed.rest(30)
    assert speed.unit_s == pytest.approx(0.0362, abs=1e-4)
    speed.rest(600)
    assert speed.unit_s == pytest.approx(0.02, rel=1e-6)


def test_without_a_prediction_it_rests_towards_its_best() -> None:
    speed = LaneSpeed()
    for measured_s in (0.02, 0.1, 0.1):
        speed.learn(measured_s)
    speed.rest(1000)
    assert speed.unit_s == pytest.approx(0.02)
    LaneSpeed().rest(10)


def test_worked_number_of_prompts() -> None:
    speed = LaneSpeed(0.02)
    speed.learn_prompt(0.22, 1000, 0.02)
    assert speed.prompt_s == pytest.approx(0.0002)
    speed.learn_prompt(9.0, 10, 0.02)
    assert speed.prompt_s == pytest.approx(0.0002), "a short prompt tells nothing"


def test_a_slow_lane_is_tried_again_after_a_rest() -> None:
    """Idle for two minutes on the queue's clock, and it is as good as its prediction."""
    once_slow, other = Lane("once slow", 1, 0.02, ready=True), Lane("other", 1, 0.03, ready=True)
    once_slow.learn(0.2)
    once_slow.learn(0.2)
    q = ModelQueue(5, [once_slow, other])
    first = q.request(Ticket(Need()), 0)
    assert first is not None
    assert first.lane is other
    q.give_back(first, 1)
    later = q.request(Ticket(Need()), 121)
    assert later is not None
    assert later.lane is once_slow


def test_worked_number_of_waiting_inside() -> None:
    def at(first_s: float | None, level: int = 2, waiting: int | None = None) -> Measured:
        return Measured(0.01, level, 1.0, first_s, 100, waiting)

    assert not waited_inside(at(0.069), 0.0002)
    assert waited_inside(at(0.071), 0.0002)
    assert not waited_inside(at(9.0, level=1), 0.0002), "alone on the card"
    assert not waited_inside(at(None), 0.0002)
    assert not waited_inside(at(9.0, waiting=0), 0.0002), "the engine knows best"
    assert waited_inside(at(0.0, waiting=1), 0.0002)


def card(learner: SlotLearner, real_slots: int, rounds: int, token_s: float = 0.01) -> None:
    """A busy card with hard slots: who comes beside more than `real_slots` waits for a part of an answer."""
    for _ in range(rounds):
        level = learner.slots
        first_s = 0.02 if level <= real_slots else 0.02 + 50 * token_s * (level - real_slots) / real_slots
        measured = Measured(token_s, level, first_s + 50 * token_s, first_s, 20)
        learner.learn(measured, waited_inside(measured, None))


@pytest.mark.parametrize("real_slots", [1, 2, 5, 8, 24])
def test_slots_find_what_the_card_has(real_slots: int) -> None:
    learner = SlotLearner()
    card(learner, real_slots, 400)
    seen = []
    for _ in range(300):
        card(learner, real_slots, 1)
        seen.append(learner.slots)
    assert abs(sorted(seen)[len(seen) // 2] - real_slots) <= 1
    assert min(seen) >= max(1, round(0.8 * real_slots))
    assert max(seen) <= real_slots + 1


def test_slots_stop_where_tokens_per_s_stop() -> None:
    """An engine that takes any number, but beyond 8 at a time each one's token time rises as their number."""
    learner = SlotLearner()
    for _ in range(600):
        level = learner.slots
        unit_s = 0.01 * max(1.0, level / 8)
        learner.learn(Measured(unit_s, level, 50 * unit_s, 2 * unit_s, 20), False)
    assert 8 <= learner.slots <= 12


def test_late_news_of_more_slots_than_now_is_old() -> None:
    learner = SlotLearner(slots=4)
    for _ in range(10):
        learner.learn(Measured(0.01, 5, 1.0, 0.9), True)
    assert learner.slots == 4


def test_a_lane_without_slots_learns_them() -> None:
    lane = Lane("a", None)
    assert lane.slots_are_learned
    before = lane.slots
    for _ in range(20):
        lane.measured(Measured(0.01, lane.slots, 0.5, 0.02, 20))
    assert lane.slots > before
    fixed = Lane("b", 3)
    for _ in range(20):
        fixed.measured(Measured(0.01, 3, 0.5, 0.02, 20))
    assert fixed.slots == 3


def test_prefixes_are_bounded_and_the_oldest_goes() -> None:
    lane = Lane("a", 1)
    for prefix in range(PREFIXES + 5):
        lane.remember(0)
        lane.remember(prefix)
    assert lane.knows(0)
    assert not lane.knows(3)
    assert lane.knows(PREFIXES + 4)
