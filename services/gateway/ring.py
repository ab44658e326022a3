"""Sums per second over the last hour, and samples for percentiles: what the throughput windows are made of. Pure: the clock is given."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence

HOUR_S = 3600
MAX_SAMPLES = 4096


class Ring:
    """One column of sums, a slot per second. Seconds older than an hour are forgotten."""

    __slots__ = ("_last", "_slots")

    def __init__(self) -> None:
        self._slots = array("d", bytes(8 * HOUR_S))
        self._last = 0

    def add(self, value: float, now: float) -> None:
        self.spread(value, now, now, now)

    def spread(self, value: float, start: float, end: float, now: float) -> None:
        """Adds `value` evenly over the seconds from `start` to `end` (at most `now`).

        Worked number: 10 over 0.5 s to 2.5 s: 2.5 in second 0, 5 in second 1, 2.5 in second 2.
        """
        self._advance(int(now))
        length = end - start
        if length <= 0:
            self._slots[int(end) % HOUR_S] += value
            return
        for second in range(max(int(start), int(now) - HOUR_S + 1), int(end) + 1):
            part = min(end, second + 1) - max(start, second)
            self._slots[second % HOUR_S] += value * part / length

    def total(self, window_s: int, now: float) -> float:
        """The sum of the current second and the `window_s` - 1 before it."""
        self._advance(int(now))
        end = int(now) % HOUR_S + 1
        if window_s <= end:
            return math.fsum(self._slots[end - window_s : end])
        return math.fsum(self._slots[:end]) + math.fsum(self._slots[end - window_s :])

    def _advance(self, second: int) -> None:
        for stale in range(max(self._last + 1, second - HOUR_S + 1), second + 1):
            self._slots[stale % HOUR_S] = 0.0
        self._last = max(self._last, second)


class Samples:
    """The last 4,096 measurements with their times."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)

    def add(self, value: float, now: float) -> None:
        self._samples.append((now, value))

    def since(self, start: float) -> list[float]:
        return [value for at, value in self._samples if at > start]


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest rank of sorted values; None of nothing. Worked number: the 0.5 of (1, 2, 3, 4) is 2."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
