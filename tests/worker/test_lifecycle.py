"""The states, driven on a clock that the test holds."""

from __future__ import annotations

import pytest

from services.wire.worker import WorkerState
from services.worker import lifecycle
from services.worker.lifecycle import Life

READY = WorkerState.READY


def ready_at(now: float) -> Life:
    return lifecycle.warmed(lifecycle.loaded(lifecycle.launched(lifecycle.born(now), now), now), now)


def test_the_way_up() -> None:
    life = lifecycle.born(0)
    assert (life.state, life.restarts) == (WorkerState.STARTING, 0)
    life = lifecycle.launched(life, 1)
    assert (life.state, life.since_s, life.reason) == (WorkerState.LOADING, 1, "the engine is loading")
    life = lifecycle.loaded(life, 2)
    assert life.state is WorkerState.WARMING
    life = lifecycle.warmed(life, 3)
    assert (life.state, life.reason, life.was_ready, life.restarts) == (READY, None, True, 0)


def test_a_dead_engine_is_restarted_with_growing_pauses() -> None:
    life, now, pauses = ready_at(0), 10.0, []
    for _ in range(8):
        life = lifecycle.ended(life, now, "died")
        assert (life.state, life.reason) == (WorkerState.RESTARTING, "died")
        assert life.retry_at_s is not None
        pauses.append(life.retry_at_s - now)
        now = life.retry_at_s
        life = lifecycle.launched(life, now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert life.restarts == 8


def test_a_minute_of_readiness_clears_the_record() -> None:
    life = lifecycle.ended(lifecycle.ended(ready_at(0), 5, "died"), 8, "died")
    assert life.failures == 2
    life = lifecycle.warmed(lifecycle.loaded(lifecycle.launched(life, 10), 11), 12)
    assert lifecycle.ended(life, 12 + 59.9, "died").failures == 3
    assert lifecycle.ended(life, 12 + 60, "died").failures == 1


def test_never_ready_is_given_up_after_three_starts() -> None:
    life = lifecycle.born(0)
    for start in range(3):
        assert life.state is not WorkerState.FAILED
        life = lifecycle.ended(lifecycle.launched(life, start), start, "bad flag --x")
    assert life.state is WorkerState.FAILED
    assert life.reason == "given up after 3 starts; the last: bad flag --x"
    assert life.retry_at_s is None


def test_hopeless_is_given_up_at_once() -> None:
    assert lifecycle.ended(ready_at(0), 99, "card lost", hopeless=True).state is WorkerState.FAILED


def test_three_misses_in_a_row_are_a_hang() -> None:
    life = ready_at(0)
    for problem in ("slow", "slow", None, "slow", "slow"):
        life = lifecycle.probed(life, 1, problem)
        assert not lifecycle.is_hung(life)
    life = lifecycle.probed(life, 1, "slow")
    assert lifecycle.is_hung(life)
    assert not lifecycle.is_hung(lifecycle.launched(lifecycle.ended(life, 2, "hung"), 3))


def test_a_restart_that_was_asked_for_is_at_once_and_with_a_clean_record() -> None:
    failed = lifecycle.ended(lifecycle.born(0), 1, "no memory", hopeless=True)
    life = lifecycle.asked_to_restart(failed, 50)
    assert (life.state, life.retry_at_s, life.failures) == (WorkerState.RESTARTING, 50, 0)


@pytest.mark.parametrize(("predicted_s", "on_gpu", "deadline_s"), [
    (None, False, 300), (10, False, 300), (100, False, 500), (40, True, 600), (180, True, 900), (None, True, 600),
])
def test_start_deadline(predicted_s: float | None, on_gpu: bool, deadline_s: float) -> None:
    assert lifecycle.start_deadline_s(predicted_s, on_gpu=on_gpu) == deadline_s
