"""What the cards draw, and which request's seat had what share of it: from what workers say once a second.

A card's energy is its own counter's where it has one, else power integrated by its worker (`energy_source` says which).
A request's joules are the card's energy in the time of its seat, at every moment divided by the seats that were taken. What a card draws
while nobody has a seat belongs to nobody.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from services.gateway.backends import Backend
from services.gateway.card_readings import number
from services.gateway.directory import Directory
from services.gateway.outcome import Outcome
from services.gateway.ring import HOUR_S, Ring

JOULES, KNOWN_S = 0, 1
LONGEST_GAP_S = 10.0  # between two readings: across a longer one nothing is claimed
STALE_S = 5.0  # after the last reading nothing is known
SAME_READING_S = 0.01  # a worker may be asked more often than it looks at its card


@dataclass(frozen=True, slots=True)
class Drawn:
    """By one card in a window: joules in the `known_s` of it in which they are known. `source` None: no reading ever."""

    joules: float
    known_s: float
    source: str | None


class CardEnergy:
    """One card. Pure: the clock is given (monotonic seconds)."""

    def __init__(self) -> None:
        self.ring = Ring(2)
        self.source: str | None = None
        self._reader, self._joules, self._seats = "", 0.0, 0
        self._watts: float | None = None
        self._times: list[float] = []  # of readings without a gap between them
        self._per_seat: list[float] = []  # at each of those: joules that one seat, taken ever since the first, would have had

    def read(self, reader: str, at_s: float, joules: float, source: str, seats: int, now: float) -> None:
        """One reading: the count `joules` at `at_s`, while `seats` were taken.

        1. The first one, or the count began anew, or there was a long gap: counting starts here.
        2. Another worker of the card, whose integral is not the one that is followed: left out (a counter is the same for all).
        3. The same reading again: nothing new.
        4. What was drawn since the last one; each of the seats (the mean of both ends, at least one) had its share.
        Worked number: 100 J in 1 s with 2 seats at both ends: 100 W, 50 J a seat.
        """
        last_s = self._times[-1] if self._times else None
        anew = source != self.source or (reader == self._reader and joules < self._joules)
        if last_s is None or anew or at_s - last_s > LONGEST_GAP_S:  # 1
            self.source, self._reader, self._joules, self._seats, self._watts = source, reader, joules, seats, None
            self._times, self._per_seat = [at_s], [0.0]
            return
        if reader != self._reader and (source != "counter" or joules < self._joules):  # 2
            return
        if at_s - last_s < SAME_READING_S:  # 3
            return
        drawn, took_s = joules - self._joules, at_s - last_s  # 4
        self.ring.spread(drawn, last_s, at_s, now, JOULES)
        self.ring.spread(took_s, last_s, at_s, now, KNOWN_S)
        self._times.append(at_s)
        self._per_seat.append(self._per_seat[-1] + drawn / max(1.0, (self._seats + seats) / 2))
        self._reader, self._joules, self._seats, self._watts = reader, joules, seats, drawn / took_s
        if len(self._times) > 2 * HOUR_S:
            del self._times[:HOUR_S], self._per_seat[:HOUR_S]

    def share(self, begun_s: float, ended_s: float, seats: int) -> float | None:
        """Joules of a seat from `begun_s` to `ended_s`; None where part of that time is not known.

        Up to the last reading: from the readings. After it: at the last known watts, among `seats`.
        Worked number: at 100 W, a seat of 0.5 s since the last reading, one of two: 25 J.
        """
        if self._watts is None or begun_s < self._times[0] or ended_s - self._times[-1] > STALE_S:
            return None
        last_s = self._times[-1]
        read = self._per_seat[-1] - self._until(begun_s) if begun_s < last_s else 0.0
        early = self._per_seat[-1] - self._until(ended_s) if ended_s < last_s else 0.0  # read after it had ended
        return read - early + max(0.0, ended_s - max(begun_s, last_s)) * self._watts / max(1, seats)

    def _until(self, at_s: float) -> float:
        """Joules of one seat from the first reading to `at_s`, between two readings by the straight line."""
        after = bisect_right(self._times, at_s)
        t0, t1, j0, j1 = self._times[after - 1], self._times[after], self._per_seat[after - 1], self._per_seat[after]
        return j0 + (j1 - j0) * (at_s - t0) / (t1 - t0)

    def drawn(self, window_s: int, now: float) -> Drawn:
        return Drawn(self.ring.total(window_s, now, JOULES), self.ring.total(window_s, now, KNOWN_S), self.source)


class CardEnergies:
    """Of every card that a worker watches; a simulated one has none."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._cards: dict[str, CardEnergy] = {}

    def said(self, backend: Backend, now: float) -> None:
        """The worker of a backend has said how it is."""
        reading = (backend.status or {}).get("telemetry")
        if backend.card is None or not isinstance(reading, dict):
            return
        joules, age_s, source = number(reading.get("energy_j")), number(reading.get("age_s")), reading.get("energy_source")
        if joules is None or age_s is None or source not in ("counter", "integrated"):
            return
        ident = backend.card.id
        seats = sum(one.lane.in_flight for one in self._directory.backends if one.card is not None and one.card.id == ident)
        self._cards.setdefault(ident, CardEnergy()).read(backend.id, now - max(0.0, age_s), joules, source, seats, now)

    def of_request(self, outcome: Outcome) -> float | None:
        """Joules of an ended request; None where they are not known. One that never had a seat used none, where the card is metered."""
        backend, ended_s = outcome.backend, outcome.ended_s
        card = self._cards.get(backend.card.id) if backend is not None and backend.card is not None else None
        if card is None or backend is None or ended_s is None:
            return None
        begun_s = outcome.seated_s if outcome.seated_s is not None else ended_s
        return card.share(begun_s, ended_s, max(outcome.level, backend.lane.in_flight))

    def drawn(self, card_id: str, window_s: int, now: float) -> Drawn:
        card = self._cards.get(card_id)
        return card.drawn(window_s, now) if card is not None else Drawn(0.0, 0.0, None)
