"""Who gets the next seat: one queue per model, held here, and a lane per backend. Pure: no clock, no task, no socket.

A request goes to a lane only when one of the lane's slots is free; until then it waits in the model's queue, first come, first served.
Every call that can free or open a slot returns what it changed, for the caller to act on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

EWMA_WEIGHT = 0.2


class QueueIsFull(Exception):
    """No slot is free and the queue is at its limit. `wait_s`: how long until a seat, from measured service times; None if unmeasured."""

    def __init__(self, waiting: int, wait_s: float | None) -> None:
        super().__init__(f"{waiting} requests are already waiting")
        self.waiting = waiting
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks of a lane: tokens of context, or pixels."""

    tokens: int = 0
    width_px: int = 0
    height_px: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One request that wants a seat. `avoid`: lanes that have already failed it."""

    need: Need
    avoid: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Lane:
    """One backend. `unit_s`: seconds per token (text) or per image, learned from finished work, at first the plan's prediction.

    None as `context_tokens`, `width_px`, `height_px`: not known, so it holds everything.
    """

    id: str
    slots: int
    unit_s: float | None = None
    context_tokens: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    ready: bool = False
    in_flight: int = 0
    taken: int = 0

    def holds(self, need: Need) -> bool:
        return (
            (self.context_tokens is None or need.tokens <= self.context_tokens)
            and (self.width_px is None or need.width_px <= self.width_px)
            and (self.height_px is None or need.height_px <= self.height_px)
        )

    def learn(self, unit_s: float) -> None:
        """One more measurement of `unit_s`."""
        self.unit_s = unit_s if self.unit_s is None else self.unit_s + EWMA_WEIGHT * (unit_s - self.unit_s)


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """A taken slot. Give it back exactly once."""

    lane: Lane
    ticket: Ticket
    since_s: float


@dataclass(frozen=True, slots=True)
class Changes:
    """`granted`: seats for tickets that were waiting. `orphaned`: tickets that were waiting for lanes that are gone."""

    granted: tuple[Seat, ...] = ()
    orphaned: tuple[Ticket, ...] = ()


@dataclass(slots=True)
class ModelQueue:
    """The lanes of one model and those who wait for them."""

    limit: int
    lanes: list[Lane] = field(default_factory=list)
    waiting: deque[Ticket] = field(default_factory=deque)
    seats: set[Seat] = field(default_factory=set)
    service_s: float | None = None

    def request(self, ticket: Ticket, now: float, again: bool = False) -> Seat | None:
        """A seat now, or None: the ticket waits.

        1. A lane that is ready, holds the request, has not failed it and has a free slot: the one that would finish it first.
        2. None is free. A request that was already served once (`again`) waits at the front, whatever the limit.
        3. The queue is full: QueueIsFull.
        4. It waits at the end.
        """
        lane = self.pick(ticket)
        if lane is not None:  # 1
            return self._take(lane, ticket, now)
        if again:  # 2
            self.waiting.appendleft(ticket)
            return None
        if len(self.waiting) >= self.limit:  # 3
            raise QueueIsFull(len(self.waiting), self.expected_wait_s(now))
        self.waiting.append(ticket)  # 4
        return None

    def pick(self, ticket: Ticket) -> Lane | None:
        """The free lane with the shortest expected finish, (in flight + 1) x seconds per token / slots; of equals the least used.

        A lane of unknown speed is taken for as fast as the fastest known one, so that it gets its chance to be measured.
        Worked number: 3 in flight of 4 slots at 0.02 s/token is 0.02; 0 in flight of 1 slot at 0.03 is 0.03: the first wins.
        """
        free = [lane for lane in self._able(ticket) if lane.in_flight < lane.slots]
        best = min((lane.unit_s for lane in free if lane.unit_s is not None), default=1.0)
        return min(free, key=lambda lane: ((lane.in_flight + 1) * (lane.unit_s or best) / lane.slots, lane.taken), default=None)

    def can_serve(self, ticket: Ticket) -> bool:
        """Whether any ready lane could ever take it."""
        return any(True for _ in self._able(ticket))

    def give_back(self, seat: Seat, now: float, served: bool = True) -> Changes:
        """The seat is free. `served`: its request ran to its end, so its time counts as a service time."""
        self.seats.remove(seat)
        seat.lane.in_flight -= 1
        if served:
            took = now - seat.since_s
            self.service_s = took if self.service_s is None else self.service_s + EWMA_WEIGHT * (took - self.service_s)
        return Changes(granted=self._fill(now))

    def cancel(self, ticket: Ticket) -> None:
        """It no longer wants a seat. No-op when it does not wait."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)

    def set_ready(self, lane: Lane, ready: bool, now: float) -> Changes:
        """The lane opens or closes for new requests; those on it stay."""
        lane.ready = ready
        granted = self._fill(now)
        orphaned = tuple(t for t in self.waiting if not self.can_serve(t))
        for ticket in orphaned:
            self.waiting.remove(ticket)
        return Changes(granted, orphaned)

    def expected_wait_s(self, now: float) -> float | None:
        """Seconds until a newcomer would get a seat: (waiting + 1) x service time / slots.

        Service time is the mean of finished requests; before any has finished, the age of the oldest running one, which it exceeds.
        Worked number: 7 waiting, 2 slots, 3 s each: 12 s.
        """
        slots = sum(lane.slots for lane in self.lanes if lane.ready)
        service_s = self.service_s
        if service_s is None and self.seats:
            service_s = max(now - seat.since_s for seat in self.seats)
        return None if service_s is None or slots == 0 else (len(self.waiting) + 1) * service_s / slots

    def _able(self, ticket: Ticket) -> Iterable[Lane]:
        return (lane for lane in self.lanes if lane.ready and lane.holds(ticket.need) and lane.id not in ticket.avoid)

    def _take(self, lane: Lane, ticket: Ticket, now: float) -> Seat:
        lane.in_flight += 1
        lane.taken += 1
        seat = Seat(lane, ticket, now)
        self.seats.add(seat)
        return seat

    def _fill(self, now: float) -> tuple[Seat, ...]:
        """Seats for those who wait, in their order; one whose lanes are all busy does not block those behind it."""
        granted = []
        for ticket in list(self.waiting):
            if not any(lane.ready and lane.in_flight < lane.slots for lane in self.lanes):
                break
            lane = self.pick(ticket)
            if lane is not None:
                self.waiting.remove(ticket)
                granted.append(self._take(lane, ticket, now))
        return tuple(granted)
