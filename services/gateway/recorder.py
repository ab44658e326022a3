"""Counts ended requests together, duty by duty.

Each duty (meters, metrics, the lanes' speeds, the log) takes a few microseconds when its code has just run, and three times that when the
rest of the gateway ran in between. So what ended well waits for others: at most MOST of them, and at most LATE_S. Whoever reads a figure
settles first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from services.gateway.outcome import Ending, Outcome

MOST = 64
LATE_S = 0.05

Duty = Callable[[Sequence[Outcome]], object]


class Recorder:
    """`duties` are called in this order with the outcomes that ended, in the order in which they did."""

    def __init__(self, *duties: Duty) -> None:
        self._duties = duties
        self._ended: list[Outcome] = []
        self._armed = False

    def add(self, outcome: Outcome) -> None:
        """1. What did not end well is counted at once, and what ended before it. 2. Many wait. 3. It waits for others, where there is an
        event loop that can end the wait."""
        ended = self._ended
        ended.append(outcome)
        if outcome.ending is not Ending.SERVED or len(ended) >= MOST:  # 1, 2
            self.settle()
        elif not self._armed:  # 3
            self._arm()

    def _arm(self) -> None:
        try:
            asyncio.get_running_loop().call_later(LATE_S, self._due)
        except RuntimeError:
            self.settle()
        else:
            self._armed = True

    def _due(self) -> None:
        self._armed = False
        self.settle()

    def settle(self) -> None:
        """Counts what has ended so far. A duty may settle again: it finds nothing."""
        if self._ended:
            ended, self._ended = self._ended, []
            for duty in self._duties:
                duty(ended)
