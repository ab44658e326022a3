"""When a backend is taken out of service for failing, for how long, and when it comes back. Pure: the clock is handed in.

What counts is what became of attempts: an engine's 4xx is the request's fault and counts for neither side, a stream that broke in its
middle is a failure like any other. Coming back is decided by one-token requests of our own (heartbeat.py), not by clients' requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WINDOW_S = 30.0
MISSES = 3


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """`failures` in a row, or `share` of at least `of` attempts in the last 30 to 60 s, open it. Open for `open_s`, each time in a row
    twice as long, at most `longest_s`; closed for so long makes the row one shorter. `successes` heartbeats in a row close it."""

    failures: int = 5
    share: float = 0.5
    of: int = 20
    open_s: float = 2.0
    longest_s: float = 60.0
    successes: int = 2


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """One backend's. `opened`: how often it has opened. `mute`: since it opened, no heartbeat was answered."""

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self.limits = limits or BreakerLimits()
        self.phase = Phase.CLOSED
        self.opened = 0
        self.mute = False
        self.until_s = 0.0
        self._in_a_row = 0  # failures while closed, good heartbeats while half open
        self._misses = 0
        self._times = 0
        self._closed_s: float | None = None
        self._window_s = 0.0
        self._now = self._before = (0, 0)  # attempts and failures of this half of the window, and of the last

    @property
    def closed(self) -> bool:
        return self.phase is Phase.CLOSED

    def succeeded(self, now: float) -> None:
        """An attempt was served whole."""
        if self.phase is Phase.CLOSED:
            self._in_a_row = 0
        self._count(now, 0)

    def failed(self, now: float) -> bool:
        """An attempt failed. Whether that opens it.

        1. Open already: no. (It was under way before, or the backend is the last of its model.)
        2. Half open: it has not recovered; open again, for longer.
        3. So many in a row, or so large a share of enough attempts: open.
        """
        self._count(now, 1)
        if self.phase is Phase.OPEN:  # 1
            return False
        if self.phase is Phase.HALF_OPEN:  # 2
            self._open(now)
            return True
        self._in_a_row += 1
        attempts, failures = (now_ + before for now_, before in zip(self._now, self._before, strict=True))
        limits = self.limits
        if self._in_a_row >= limits.failures or (attempts >= limits.of and failures >= limits.share * attempts):  # 3
            self._open(now)
            return True
        return False

    def heartbeat(self, well: bool, now: float) -> bool:
        """A one-token request of ours was answered, or not. Whether that opens or closes it, or changes `mute`.

        1. Closed (the engine was in doubt): MISSES in a row open it, whatever else it answers.
        2. Not answered: open from now on, for longer than the last time.
        3. Answered: `successes` in a row close it.
        """
        if self.phase is Phase.CLOSED:  # 1
            self._misses = 0 if well else self._misses + 1
            if self._misses >= MISSES:
                self._open(now, mute=True)
            return not self.closed
        was_mute, self.mute = self.mute, not well
        if not well:  # 2
            self._open(now, mute=True)
            return not was_mute
        self.phase = Phase.HALF_OPEN  # 3
        self._in_a_row += 1
        if self._in_a_row >= self.limits.successes:
            self.phase, self._in_a_row, self._misses, self._closed_s = Phase.CLOSED, 0, 0, now
            self._now = self._before = (0, 0)
        return was_mute or self.closed

    def warmed_up(self, now: float) -> None:
        """Its engine was started anew and has answered its warm-up, which is a heartbeat of the new process; what the old one missed is
        forgotten."""
        self._misses = 0
        if not self.closed:
            self.heartbeat(True, now)

    def due(self, now: float, alone: bool) -> bool:
        """Whether a heartbeat is to be sent: half open, or open for long enough. `alone`: no other backend serves the model, so it is asked
        as often as at first, and a first time at once."""
        if self.phase is Phase.OPEN:
            first_s = self.until_s - self.open_for_s + self.limits.open_s
            return now >= self.until_s or (alone and (not self.mute or now >= first_s))
        return self.phase is Phase.HALF_OPEN

    @property
    def open_for_s(self) -> float:
        """How long it is, or was, open this time. Worked number: 2 s, the third time in a row: 2 x 2 x 2 = 8 s."""
        return min(self.limits.longest_s, self.limits.open_s * 2.0 ** max(0, self._times - 1))

    def _open(self, now: float, mute: bool = False) -> None:
        """Open, twice as long as the last time unless it was well for long since."""
        if self._closed_s is not None:
            self._times = max(0, self._times - int((now - self._closed_s) / self.limits.longest_s))
            self._closed_s = None
        self._times = min(self._times + 1, 32)
        self.opened += self.phase is not Phase.OPEN
        self.phase, self._in_a_row, self.mute = Phase.OPEN, 0, mute
        self.until_s = now + self.open_for_s

    def _count(self, now: float, failures: int) -> None:
        if now - self._window_s >= WINDOW_S:
            self._before = self._now if now - self._window_s < 2 * WINDOW_S else (0, 0)
            self._now, self._window_s = (0, 0), now
        self._now = (self._now[0] + 1, self._now[1] + failures)


def in_service(breaker: Breaker, others_closed: bool) -> bool:
    """Whether a backend that is ready gets requests. `others_closed`: another ready backend of its model has a closed breaker.

    1. Its breaker is closed: yes.
    2. Another one is well: no.
    3. It is the best that there is (panic mode). It answered its last heartbeat, or was not asked yet: yes, some of what it does is better
       than nothing. Else no: nothing would come of it but waiting; it is asked again soon.
    """
    return breaker.closed or (not others_closed and not breaker.mute)  # 1, 2, 3


class RetryBudget:
    """Second attempts are a share of the traffic, so that a rig whose engines all fail is not asked twice for everything.

    Each request brings `share` of a retry, and time brings `floor_per_s`, for rigs with little traffic; what is not used is kept up to
    `most`. Worked number: 100 requests/s that all fail get 0.1 x 100 + 3 = 13 retries/s after the first 30.
    """

    def __init__(self, share: float = 0.1, floor_per_s: float = 3.0, most: float = 30.0) -> None:
        self._share, self._floor_per_s, self._most = share, floor_per_s, most
        self._left = most
        self._since_s: float | None = None
        self.refused = 0

    def request(self) -> None:
        """One request has ended, whatever came of it."""
        self._left += self._share

    def take(self, now: float) -> bool:
        """Whether one more attempt may be made; it is then taken."""
        since_s = now if self._since_s is None else self._since_s
        self._since_s = now
        self._left = min(self._most, self._left + (now - since_s) * self._floor_per_s)
        if self._left < 1.0:
            self.refused += 1
            return False
        self._left -= 1.0
        return True
