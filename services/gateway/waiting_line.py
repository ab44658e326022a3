"""In which order those who wait are served: interactive before batch, keys in turns, nobody for ever. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996): a ticket's start is the later of the line's clock and the end of its key's last ticket;
the smallest start is next. A step of priority starts PRIORITY_TURNS later. The clock goes on by one turn for each round of the waiting
keys, so whatever comes later starts later, and everything that waits is next at some time.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import NamedTuple

from services.gateway.tickets import Ticket

PRIORITY_TURNS = 16.0
FRONT = -1.0


class Place(NamedTuple):
    """One who waits. The smallest is next; `number` (unique) decides among equals, so tickets are never compared."""

    start: float
    number: int
    ticket: Ticket
    since_s: float


class WaitingLine:
    """The tickets of one model that wait, next first."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._of_key: dict[str | None, int] = {}
        self._end_of: dict[str | None, float] = {}
        self._clock = 0.0
        self._number = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Ticket]:
        return (place.ticket for place in self._places)

    @property
    def places(self) -> list[Place]:
        """A copy, next first."""
        return list(self._places)

    def of_key(self, key: str | None) -> int:
        """How many of this key wait."""
        return self._of_key.get(key, 0)

    def enter(self, ticket: Ticket, now: float, front: bool = False) -> None:
        """It waits from now on. `front`: before all that are not themselves at the front (they had a seat before)."""
        start = FRONT
        if not front:
            start = self._start(ticket)
            self._end_of[ticket.key] = start + ticket.cost
            start += ticket.priority * PRIORITY_TURNS
        self._number += 1
        self._of_key[ticket.key] = self.of_key(ticket.key) + 1
        insort(self._places, Place(start, -self._number if front else self._number, ticket, now))

    def ahead_of(self, ticket: Ticket) -> int:
        """How many would be served before it, if it entered now."""
        start = self._start(ticket) + ticket.priority * PRIORITY_TURNS
        return sum(place.start <= start for place in self._places)

    def serve(self, place: Place) -> None:
        """It has a seat: it leaves, and the clock goes on by its part of a round."""
        self._clock += place.ticket.cost / len(self._of_key)
        self._remove(place)

    def drop(self, ticket: Ticket) -> None:
        """It no longer wants a seat, and its key gets its turn back. No-op when it does not wait."""
        for place in self._places:
            if place.ticket is ticket:
                if place.start != FRONT:
                    self._end_of[ticket.key] -= ticket.cost
                self._remove(place)
                return

    def _start(self, ticket: Ticket) -> float:
        return max(self._clock, self._end_of.get(ticket.key, 0.0))

    def _remove(self, place: Place) -> None:
        self._places.remove(place)
        key = place.ticket.key
        left = self._of_key[key] - 1
        if left:
            self._of_key[key] = left
        else:
            del self._of_key[key]
        if not self._places:  # an empty line remembers nothing, so neither the clock nor the keys grow for ever
            self._clock, self._end_of = 0.0, {}
        elif len(self._end_of) > 4 * len(self._of_key) + 64:
            self._end_of = {key: end for key, end in self._end_of.items() if end > self._clock or key in self._of_key}
