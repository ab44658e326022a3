"""Sums per second over the last hour, and samples for percentiles: what the throughput windows are made of. Pure: the clock is given."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence

HOUR_S = 3600
MAX_SAMPLES = 4096


class Ring:
    """Columns of sums, a row per second. Seconds older than an hour are forgotten.

    `row(now)` and `slots[row + column] += value` add to the current second; the rest is for what lasted longer, and for reading.
    """

    __slots__ = ("_columns", "_last", "slots")

    def __init__(self, columns: int = 1) -> None:
        self.slots = array("d", bytes(8 * HOUR_S * columns))
        self._columns = columns
        self._last = 0

    def row(self, now: float) -> int:
        """Where the row of the second `now` begins."""
        second = int(now)
        if second > self._last:
            self._advance(second)
        return second % HOUR_S * self._columns

    def spread(self, value: float, start: float, end: float, now: float, column: int = 0) -> None:
        """Adds `value` evenly over the seconds from `start` to `end` (at most `now`).

        Worked number: 10 over 0.5 s to 2.5 s: 2.5 in second 0, 5 in second 1, 2.5 in second 2.
        """
        row, length = self.row(now), end - start
        first, last = int(start), int(end)
        if first == last == int(now):
            self.slots[row + column] += value
            return
        if length <= 0:
            self.slots[self.row(end) + column] += value
            return
        for second in range(max(first, int(now) - HOUR_S + 1), last + 1):
            part = min(end, second + 1) - max(start, second)
            self.slots[second % HOUR_S * self._columns + column] += value * part / length

    def total(self, window_s: int, now: float, column: int = 0) -> float:
        """The sum of the current second and the `window_s` - 1 before it."""
        return math.fsum(self._window(window_s, now)[column :: self._columns])

    def totals(self, window_s: int, now: float) -> list[float]:
        """`total` of every column."""
        values = self._window(window_s, now)
        return [math.fsum(values[column :: self._columns]) for column in range(self._columns)]

    def _window(self, window_s: int, now: float) -> array[float]:
        """The rows of the window, in no order."""
        end = self.row(now) + self._columns
        begin = end - window_s * self._columns
        return self.slots[begin:end] if begin >= 0 else self.slots[:end] + self.slots[begin:]

    def buckets(self, bucket_s: int, count: int, now: float, column: int = 0) -> list[float]:
        """Sums of `count` stretches of `bucket_s` seconds, oldest first; the last one ends where the current stretch begins, so that a sum,
        once said, changes only by what ends later. Worked number: at 17.3 s, two stretches of 5 s are 5 to 9 and 10 to 14."""
        self.row(now)
        end = int(now) // bucket_s * bucket_s
        values = self.slots[column :: self._columns]
        begins = range(end - count * bucket_s, end, bucket_s)
        return [math.fsum(values[second % HOUR_S] for second in range(begin, begin + bucket_s)) if begin >= 0 else 0.0 for begin in begins]

    def _advance(self, second: int) -> None:
        empty = array("d", bytes(8 * self._columns))
        for stale in range(max(self._last + 1, second - HOUR_S + 1), second + 1):
            row = stale % HOUR_S * self._columns
            self.slots[row : row + self._columns] = empty
        self._last = second


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
