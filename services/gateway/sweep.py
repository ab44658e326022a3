"""One clock for the deadlines of all exchanges on the short way: a look every SWEEP_S at those that run, instead of a timer for each."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

SWEEP_S = 0.05


class Watched(Protocol):
    """`due_s`: the monotonic time after which `too_late` is called."""

    due_s: float

    def too_late(self, now: float) -> None: ...


class Sweep:
    """Deadlines are met up to SWEEP_S late. While nothing is watched nothing runs."""

    __slots__ = ("_armed", "watched")

    def __init__(self) -> None:
        self.watched: set[Watched] = set()
        self._armed = False

    def watch(self, one: Watched) -> None:
        self.watched.add(one)
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._look)

    def forget(self, one: Watched) -> None:
        self.watched.discard(one)

    def _look(self) -> None:
        now = time.monotonic()
        for one in [one for one in self.watched if one.due_s <= now]:
            if one in self.watched:  # another's end may have been its end too
                one.too_late(now)
        self._armed = bool(self.watched)
        if self._armed:
            asyncio.get_running_loop().call_later(SWEEP_S, self._look)
