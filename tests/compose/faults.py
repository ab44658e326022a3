"""Breaks one replica of two while clients ask, and measures what they see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.compose.faults_page import Bounds, Row
from tests.compose.rigs import LLM
from tests.compose.running_stack import RunningStack
from tests.compose.steady_client import LongStream, SteadyClient, streams_on_each

VICTIM, OTHER = f"{LLM}-1", f"{LLM}-2"


@dataclass(frozen=True, slots=True)
class Fault:
    """`mend` is what an operator does; without one the stack mends itself."""

    name: str
    by: str
    bounds: Bounds
    hit: Callable[[RunningStack], object]
    mend: Callable[[RunningStack], object] | None = None
    resumes: bool = False  # what is mended within a stream's patience (30 s) goes on


def measure(stack: RunningStack, fault: Fault) -> Row:
    """Raises AssertionError where a bound is not kept or something stays stuck."""
    bounds = fault.bounds
    stack.wait_all_ready(60)
    streams = streams_on_each(stack.url, LLM, {VICTIM, OTHER})
    with SteadyClient(stack.url, LLM).asking() as client:
        time.sleep(0.5)
        hit = time.monotonic()
        fault.hit(stack)
        stack.wait_for(f"{fault.name} noticed", lambda: stack.state(VICTIM) != "ready", bounds.noticed_s)
        noticed_s = time.monotonic() - hit
        mended = hit
        if fault.mend is not None:
            time.sleep(1.0)
            mended = time.monotonic()
            fault.mend(stack)
        stack.wait_state(VICTIM, "ready", bounds.back_s)
    stack.answers_from(VICTIM, LLM, bounds.back_s)
    back_s = time.monotonic() - mended
    ending = _ending(streams[VICTIM], hit)
    assert ending.startswith("done" if fault.resumes else "error"), f"the stream on {VICTIM} ended as {ending}"
    assert streams[OTHER].wait(90) == "done", "the other replica's stream suffered too"
    during = [one for one in client.seen if one.ended_s >= hit]
    slowest_s = max(one.took_s for one in during)
    assert (slowest_s < bounds.slowest_s, back_s < bounds.back_s) == (True, True), (slowest_s, back_s)
    assert {one.status for one in during} <= {200, 502, 504}, {(one.status, one.code) for one in client.failed}
    assert healed(stack)
    return Row(fault.name, ending, sum(one.status != 200 for one in during), len(during), slowest_s, noticed_s, back_s, fault.by, bounds)


def healed(stack: RunningStack) -> bool:
    """No seat is left taken, every replica is ready, and twenty requests in a row are answered at once."""
    stack.wait_all_ready(30)
    stack.wait_idle()
    client = SteadyClient(stack.url, LLM)
    answers = [client.ask() for _ in range(20)]
    assert {one.status for one in answers} == {200}, answers
    return True


def _ending(stream: LongStream, hit: float) -> str:
    how = stream.wait(60)
    assert stream.ended_s is not None
    return f"{how} after {stream.ended_s - hit:.1f}"


def engine_pid(stack: RunningStack, placement: str) -> int:
    """In its container's own count."""
    return int(stack.placements()[placement]["status"]["engine_pid"])


def worker_pid(stack: RunningStack, service: str) -> int:
    """The child of the container's init."""
    return int(stack.inside(service, "sh", "-c", "cat /proc/1/task/1/children").split()[0])
