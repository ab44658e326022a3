from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.gateway.outcome import Ending, Outcome
from services.gateway.recorder import LATE_S, MOST, Recorder


class Seen:
    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def duty(self, name: str):
        return lambda outcomes: self.calls.append((name, [outcome.request_id for outcome in outcomes]))


def ended(number: int, ending: Ending = Ending.SERVED) -> Outcome:
    return Outcome(str(number), str(number), "/v1/chat/completions", 0.0, ending=ending)


async def test_what_ended_well_waits_for_others_but_not_for_long() -> None:
    seen = Seen()
    recorder = Recorder(seen.duty("meters"), seen.duty("log"))
    recorder.add(ended(1))
    recorder.add(ended(2))
    assert seen.calls == []
    await asyncio.sleep(4 * LATE_S)
    assert seen.calls == [("meters", ["1", "2"]), ("log", ["1", "2"])]
    recorder.add(ended(3))
    await asyncio.sleep(4 * LATE_S)
    assert seen.calls[2:] == [("meters", ["3"]), ("log", ["3"])], "the wait is set again"


async def test_many_do_not_wait() -> None:
    seen = Seen()
    recorder = Recorder(seen.duty("all"))
    for number in range(2 * MOST + 1):
        recorder.add(ended(number))
    assert [len(which) for _, which in seen.calls] == [MOST, MOST]
    recorder.settle()
    recorder.settle()
    assert [len(which) for _, which in seen.calls] == [MOST, MOST, 1]


async def test_a_failure_is_counted_at_once_and_in_order() -> None:
    seen = Seen()
    recorder = Recorder(seen.duty("all"))
    recorder.add(ended(1))
    recorder.add(ended(2, Ending.FAILED))
    assert seen.calls == [("all", ["1", "2"])]


def test_without_a_loop_nothing_waits() -> None:
    seen = Seen()
    Recorder(seen.duty("all")).add(ended(1))
    assert seen.calls == [("all", ["1"])]


async def test_a_duty_may_settle() -> None:
    calls: list[int] = []
    recorder: Recorder

    def duty(outcomes: Sequence[Outcome]) -> None:
        calls.append(len(outcomes))
        recorder.settle()

    recorder = Recorder(duty)
    recorder.add(ended(1))
    recorder.settle()
    assert calls == [1]
