"""Waits until an engine's requests have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.worker.questions import Questions
from services.worker.timing import Timing

Over = Callable[[int, float, float], bool]


async def until_idle(questions: Questions, timing: Timing, over: Over, limit_s: float, stopped: Callable[[], bool]) -> str:
    """Until `over` of (looks in a row that found no request, seconds since the begin, limit) says so, or it is `stopped`. Returns a
    sentence about it."""
    begun, idle_looks, running = time.monotonic(), 0, None
    while not stopped() and not over(idle_looks, time.monotonic() - begun, limit_s):
        left_s = limit_s - (time.monotonic() - begun)
        running = await questions.in_flight(min(left_s, timing.probe_timeout_s))
        idle_looks = idle_looks + 1 if running == 0 else 0
        await asyncio.sleep(min(timing.drain_s, max(0.0, limit_s - (time.monotonic() - begun))))
    what = "no request runs" if running == 0 else f"{'an unknown number of' if running is None else running} request(s) cut off"
    return f"drained for {time.monotonic() - begun:.1f} s, {what}"
