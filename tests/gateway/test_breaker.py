"""When a breaker opens, for how long, and what closes it; the last backend of a model; the budget of second attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.breaker import MISSES, Breaker, BreakerLimits, Phase, RetryBudget, in_service

LIMITS = BreakerLimits(failures=5, open_s=2.0, longest_s=60.0)


def opened(breaker: Breaker, now: float) -> None:
    for _ in range(LIMITS.failures):
        breaker.failed(now)
    assert breaker.phase is Phase.OPEN


def closed_again(breaker: Breaker, now: float) -> None:
    for _ in range(LIMITS.successes):
        breaker.heartbeat(True, now)
    assert breaker.closed


def test_failures_in_a_row() -> None:
    breaker = Breaker(LIMITS)
    assert [breaker.failed(1.0) for _ in range(5)] == [False] * 4 + [True]
    assert (breaker.phase, breaker.opened, breaker.until_s) == (Phase.OPEN, 1, 3.0)
    assert breaker.failed(1.1) is False, "what was under way changes nothing"


def test_a_success_between_breaks_the_row() -> None:
    breaker = Breaker(LIMITS)
    for i in range(9):
        (breaker.succeeded if i % 5 == 4 else breaker.failed)(1.0)
    assert breaker.closed


def test_a_share_of_many() -> None:
    """Every second of 20 fails, never two in a row; but of 19 it does not count yet."""
    breaker = Breaker(LIMITS)
    for i in range(20):
        (breaker.failed if i % 2 else breaker.succeeded)(1.0)
        assert breaker.closed is (i < 19)


def test_old_failures_do_not_count() -> None:
    breaker = Breaker(LIMITS)
    for i in range(19):
        (breaker.failed if i % 2 == 0 else breaker.succeeded)(1.0)
    breaker.succeeded(70.0)
    assert not breaker.failed(70.0)


def test_two_good_heartbeats_close_it_and_one_bad_opens_it_for_longer() -> None:
    breaker = Breaker(LIMITS)
    opened(breaker, 0.0)
    assert not breaker.due(1.9, alone=False)
    assert breaker.due(2.0, alone=False)
    assert breaker.heartbeat(True, 2.0) is False
    assert breaker.phase is Phase.HALF_OPEN
    assert breaker.heartbeat(False, 2.1)
    assert (breaker.phase, breaker.open_for_s, breaker.mute) == (Phase.OPEN, 4.0, True)
    closed_again(breaker, 6.1)


def test_each_time_in_a_row_is_longer_and_health_makes_it_shorter() -> None:
    breaker, now, times = Breaker(LIMITS), 0.0, []
    for _ in range(8):
        opened(breaker, now)
        times.append(breaker.open_for_s)
        now += 1.0
        closed_again(breaker, now)
    assert times == [2, 4, 8, 16, 32, 60, 60, 60]
    opened(breaker, now + 10 * 60.0)
    assert breaker.open_for_s == 2.0


def test_a_doubted_engine_that_misses_heartbeats_is_open_and_mute() -> None:
    breaker = Breaker(LIMITS)
    moved = [breaker.heartbeat(False, 1.0) for _ in range(MISSES)]
    assert moved == [False, False, True]
    assert (breaker.phase, breaker.mute, breaker.opened) == (Phase.OPEN, True, 1)


def test_misses_must_be_in_a_row() -> None:
    breaker = Breaker(LIMITS)
    for well in (False, False, True, False, False):
        breaker.heartbeat(well, 1.0)
    assert breaker.closed


def test_the_last_of_a_model() -> None:
    """It serves unless it is mute; then it is asked as often as at first, however often it has failed."""
    breaker = Breaker(LIMITS)
    assert in_service(breaker, others_closed=False)
    now = 0.0
    opened(breaker, now)
    assert in_service(breaker, others_closed=False)
    assert not in_service(breaker, others_closed=True)
    assert breaker.due(now, alone=True), "asked at once: is it worth anything?"
    for _ in range(10):
        breaker.heartbeat(False, now)
        assert not in_service(breaker, others_closed=False)
        assert not breaker.due(now + 1.9, alone=True)
        assert breaker.due(now + 2.0, alone=True)
        now += 2.0
    breaker.heartbeat(True, now)
    assert in_service(breaker, others_closed=False), "one good answer and it serves again"


@given(st.lists(st.sampled_from(["good", "bad", "beat", "miss", "wait"]), max_size=200))
def test_it_can_always_come_back(steps: list[str]) -> None:
    """Whatever happened: within the longest time it is due, and two answered heartbeats close it."""
    breaker, now = Breaker(LIMITS), 0.0
    for step in steps:
        now += 7.0 if step == "wait" else 0.1
        if step == "good":
            breaker.succeeded(now)
        elif step == "bad":
            breaker.failed(now)
        elif step != "wait" and (breaker.closed or breaker.due(now, alone=False)):
            breaker.heartbeat(step == "beat", now)
    if not breaker.closed:
        assert breaker.until_s <= now + LIMITS.longest_s
        assert breaker.due(breaker.until_s, alone=False)
        closed_again(breaker, max(now, breaker.until_s))


def test_retries_are_a_share_of_the_traffic() -> None:
    """100 requests/s that all fail, for 10 s: 30 kept, 3/s by time, a tenth of the traffic."""
    budget = RetryBudget(share=0.1, floor_per_s=3.0, most=30.0)
    given_, now = 0, 0.0
    for i in range(1000):
        now = i / 100
        budget.request()
        given_ += budget.take(now)
    assert given_ == pytest.approx(30 + 3 * 10 + 0.1 * 1000, abs=3)
    assert budget.refused == 1000 - given_


def test_what_is_not_used_is_kept_up_to_a_limit() -> None:
    budget = RetryBudget(most=5.0)
    for _ in range(1000):
        budget.request()
    assert sum(budget.take(1.0) for _ in range(10)) == 5


def test_an_engine_started_anew_is_not_held_for_mute() -> None:
    """A hung engine has missed its heartbeats; the worker starts another, which answers its warm-up. One more heartbeat closes it."""
    breaker = Breaker()
    for now in (0.0, 1.0, 2.0):
        breaker.heartbeat(False, now)
    assert not in_service(breaker, others_closed=False)
    breaker.warmed_up(60.0)
    assert breaker.phase is Phase.HALF_OPEN
    assert in_service(breaker, others_closed=False), "the last of its model serves at once"
    assert not in_service(breaker, others_closed=True), "beside another that is well it proves itself first"
    breaker.heartbeat(True, 61.0)
    assert breaker.closed


def test_a_warm_up_forgets_the_misses_of_the_old_engine() -> None:
    breaker = Breaker()
    for now in (0.0, 1.0):
        breaker.heartbeat(False, now)
    breaker.warmed_up(2.0)
    breaker.heartbeat(False, 3.0)
    assert breaker.closed
