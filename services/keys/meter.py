"""What a key has used of its limits: counters in memory, one object per key. Pure: the time is handed in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from services.keys.key import WINDOWS_S, Limit, Limits, Unit, Window


@dataclass(frozen=True, slots=True)
class Over:
    """Why a key may not go on. `limit` None: too many of its requests are under way (`most`). `wait_s`: until the next window."""

    unit: Unit | Literal["concurrency"]
    window: Window | None
    most: int
    used: int
    wait_s: float | None


class _Count:
    __slots__ = ("limit", "number", "used", "window_s")

    def __init__(self, limit: Limit) -> None:
        self.limit, self.window_s, self.number, self.used = limit, WINDOWS_S[limit.window], -1, 0

    def now_used(self, now: float) -> int:
        """A window that is over counts for nothing."""
        number = int(now // self.window_s)
        if number != self.number:
            self.number, self.used = number, 0
        return self.used


class Meter:
    """`take` before a request, `finished` or `undo` after it. `now` is unix seconds.

    Tokens are known when the answer has ended, so a key may overshoot its tokens by what was under way; requests and images never.
    """

    __slots__ = ("_counts", "concurrency", "in_flight")

    def __init__(self, limits: Limits) -> None:
        self.in_flight = 0
        self._counts: list[_Count] = []
        self.set_limits(limits)

    def set_limits(self, limits: Limits) -> None:
        """New limits; what was counted for the same unit and window stays counted."""
        kept = {(count.limit.unit, count.limit.window): count for count in self._counts}
        self.concurrency, self._counts = limits.concurrency, []
        for limit in limits.windows:
            count = kept.get((limit.unit, limit.window)) or _Count(limit)
            count.limit = limit
            self._counts.append(count)

    def seed(self, now: float, used_today: Mapping[Unit, int]) -> None:
        """What the usage table says of today, so that a restart gives no second day. Minutes and hours begin anew."""
        for count in self._counts:
            if count.limit.window == "day":
                count.used = max(count.now_used(now), used_today.get(count.limit.unit, 0))

    def take(self, now: float, images: int = 0) -> Over | None:
        """1. Too many of its requests are under way. 2. A window is used up, or has no room for that many images. 3. Counted: None.

        Worked example: 60 requests a minute, 60 made, 12:00:48: Over("requests", "minute", 60, 60, 12.0).
        """
        if self.concurrency is not None and self.in_flight >= self.concurrency:  # 1
            return Over("concurrency", None, self.concurrency, self.in_flight, None)
        for count in self._counts:  # 2
            used, limit = count.now_used(now), count.limit
            if used + (images if limit.unit == "images" else 1) > limit.most:
                return Over(limit.unit, limit.window, limit.most, used, count.window_s - math.fmod(now, count.window_s))
        self._add(now, 1, 0, images)  # 3
        self.in_flight += 1
        return None

    def finished(self, now: float, tokens: int, images_not_made: int = 0) -> None:
        """The request has ended, having used so many tokens, and made fewer images than were counted."""
        self.in_flight -= 1
        if tokens or images_not_made:
            self._add(now, 0, tokens, -images_not_made)

    def undo(self, now: float, images: int = 0) -> None:
        """As if `take` had never been."""
        self.in_flight -= 1
        self._add(now, -1, 0, -images)

    def _add(self, now: float, requests: int, tokens: int, images: int) -> None:
        for count in self._counts:
            unit = count.limit.unit
            more = requests if unit == "requests" else tokens if unit == "tokens" else images
            if more:
                count.used = max(0, count.now_used(now) + more)
