"""Who gets the next seat: one queue per model, held here, and a lane per backend. Pure: no clock, no task, no socket.

A request goes to a lane only when one of the lane's slots is free; until then it waits in the model's queue (waiting_line.py: in which
order). Every call that can free or open a slot returns what it changed, for the caller to act on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.gateway.lane import Lane
from services.gateway.tickets import Need, NobodyServes, QueueIsFull, Ticket
from services.gateway.waiting_line import WaitingLine

__all__ = ["Changes", "Lane", "ModelQueue", "Need", "NobodyServes", "QueueIsFull", "Seat", "Ticket"]

EWMA_WEIGHT = 0.05
TIE = 0.2
PASS_S = 0.25
REST_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """A taken slot. Give it back exactly once. `level`: requests in flight on the lane since then, itself included."""

    lane: Lane
    ticket: Ticket
    since_s: float
    level: int = 1


@dataclass(frozen=True, slots=True)
class Changes:
    """`granted`: seats for tickets that were waiting. `orphaned`: tickets that were waiting for lanes that are gone."""

    granted: tuple[Seat, ...] = ()
    orphaned: tuple[Ticket, ...] = ()


@dataclass(slots=True, eq=False)
class ModelQueue:
    """The lanes of one model and those who wait for them. `service_s`: how long a request keeps its seat; None before one has ended."""

    limit: int
    lanes: list[Lane] = field(default_factory=list)
    waiting: WaitingLine = field(default_factory=WaitingLine)
    seats: set[Seat] = field(default_factory=set)
    service_s: float | None = None
    units: float | None = None
    _served: int = 0
    _rested_s: float | None = None

    def request(self, ticket: Ticket, now: float, again: bool = False) -> Seat | None:
        """A seat now, or None: the ticket waits.

        1. A lane that is ready, holds the request, has not failed it and has a free slot: the fastest.
        2. No lane that is ready will ever be free for it (the others went away since it was admitted): NobodyServes.
        3. None is free. A request that was already served once (`again`) waits at the front, whatever the limit.
        4. The queue is full, or its key already has half of the queue: QueueIsFull.
        5. It would wait longer than it may: QueueIsFull, `too_late`.
        6. It waits, behind its equals.
        """
        self._rest(now)
        lane = self.pick(ticket)
        if lane is not None:  # 1
            return self._take(lane, ticket, now)
        if not self.can_serve(ticket):  # 2
            raise NobodyServes
        if not again:  # 3
            full = len(self.waiting) >= self.limit
            if full or (ticket.key is not None and self.waiting.of_key(ticket.key) >= max(1, self.limit // 2)):  # 4
                raise QueueIsFull(len(self.waiting), self.expected_wait_s(now))
            if ticket.queue_s is not None:  # 5
                wait_s = self.expected_wait_s(now, ticket)
                if wait_s is not None and wait_s > ticket.queue_s:
                    raise QueueIsFull(len(self.waiting), wait_s, too_late=True)
        self.waiting.enter(ticket, now, front=again)  # 6
        return None

    def at_once(self, ticket: Ticket, now: float) -> Seat | None:
        """A seat for one who would not wait; None when nobody gets one without waiting."""
        if self.waiting:
            return None
        self._rest(now)
        lane = self.pick(ticket)
        return None if lane is None else self._take(lane, ticket, now)

    def pick(self, ticket: Ticket, waited_s: float = 0.0, ahead: int | None = None) -> Lane | None:
        """The free lane that is fastest by its learned seconds per token.

        1. A lane that was never measured and is empty goes first, to be measured.
        2. Of the measured: the fewest seconds per token; a full lane counts up to 20 % slower than an empty one, one that has the ticket's
           prefix cached 20 % faster: so these decide among lanes that are about equal. Of equals the least used.
        3. That lane is slow, and waiting for a faster one is quicker: none (better_to_wait).
        4. None is measured: the one with the fewest in flight.

        Worked number: 0.020 s/token with 3 of 4 slots taken is 0.020 x (1 + 0.2 x 3/4) = 0.023, 0.022 s/token and empty wins; at 0.030 it
        would not.
        """
        best = unknown = None
        best_score = quickest_s = float("inf")
        need, avoid, prefix = ticket.need, ticket.avoid, ticket.prefix
        for lane in self.lanes:
            if not lane.ready or not lane.holds(need) or (avoid and lane.id in avoid):
                continue
            unit_s = lane.speed.unit_s
            if lane.full or (lane.share is not None and not lane.share.lets(lane)):
                if unit_s is not None and unit_s < quickest_s:
                    quickest_s = unit_s
            elif unit_s is None:
                if unknown is None or (lane.in_flight, lane.taken) < (unknown.in_flight, unknown.taken):
                    unknown = lane
            else:
                score = unit_s * (1.0 + TIE * lane.in_flight / lane.slots)
                if prefix is not None and lane.knows(prefix):
                    score *= 1.0 - TIE
                if score < best_score or (score == best_score and best is not None and lane.taken < best.taken):
                    best, best_score = lane, score
        if unknown is not None and (best is None or unknown.in_flight == 0):  # 1, 4
            return unknown
        if best is not None and quickest_s < best_score and self._better_to_wait(ticket, best, waited_s, ahead):  # 3
            return None
        return best  # 2

    def _better_to_wait(self, ticket: Ticket, slow: Lane, waited_s: float, ahead: int | None) -> bool:
        """Whether to pass on a slow free lane: the wait for a faster one and its service are shorter than the slow one's service, and the
        wait is within what is left of PASS_S (so a slow card is left out only while the queue is short, and never for long).

        Worked number: 50 token times, slow 0.1 s, two lanes at 0.01 s with 8 slots each: 16 / (50 x 0.01 s) = 32 seats/s; 3 ahead: a wait
        of 4 / 32 = 0.125 s. 0.125 s + 0.5 s is less than 5 s: it waits.
        """
        units, slow_s = self.units, slow.speed.unit_s
        if units is None or slow_s is None or waited_s >= PASS_S:
            return False
        seats_per_s = quickest_s = 0.0
        for lane in self._able(ticket):
            unit_s = lane.speed.unit_s
            if unit_s is not None and unit_s < slow_s:
                seats_per_s += lane.slots / (units * unit_s)
                quickest_s = max(quickest_s, unit_s)
        if not seats_per_s:
            return False
        wait_s = ((len(self.waiting) if ahead is None else ahead) + 1) / seats_per_s
        return waited_s + wait_s <= PASS_S and wait_s + units * quickest_s < units * slow_s

    def can_serve(self, ticket: Ticket) -> bool:
        """Whether any lane that is ready, or will be for those who wait, could ever take it."""
        return bool(self._able(ticket)) or any(
            lane.coming and lane.holds(ticket.need) and lane.id not in ticket.avoid for lane in self.lanes
        )

    def give_back(self, seat: Seat, now: float, served: bool = True) -> Changes:
        """The seat is free. `served`: its request ran to its end, so its time counts as a service time."""
        self.seats.remove(seat)
        seat.lane.in_flight -= 1
        if served:
            took = now - seat.since_s
            self._served += 1
            weight = max(EWMA_WEIGHT, 1 / self._served)
            self.service_s = _average(self.service_s, took, weight)
            if seat.lane.speed.unit_s:
                self.units = _average(self.units, took / seat.lane.speed.unit_s, weight)
        self._rest(now)
        return Changes(granted=self._fill(now)) if self.waiting else Changes()

    def cancel(self, ticket: Ticket) -> None:
        """It no longer wants a seat. No-op when it does not wait."""
        self.waiting.drop(ticket)

    def set_ready(self, lane: Lane, ready: bool, now: float) -> Changes:
        """The lane opens or closes for new requests; those on it stay."""
        lane.ready = ready
        granted = self._fill(now)
        orphaned = tuple(t for t in self.waiting if not self.can_serve(t))
        for ticket in orphaned:
            self.waiting.drop(ticket)
        return Changes(granted, orphaned)

    def look_again(self, now: float) -> Changes:
        """Something outside this queue has changed, or time has passed for those who passed on a slow lane."""
        return Changes(granted=self._fill(now))

    @property
    def shares_cards(self) -> bool:
        """Whether another model's lanes are on the same cards."""
        return any(lane.share is not None for lane in self.lanes)

    @property
    def someone_passes(self) -> bool:
        """Whether someone waits although a lane is open: to be looked at again after PASS_S."""
        return bool(self.waiting) and any(lane.open for lane in self.lanes)

    def expected_wait_s(self, now: float, ticket: Ticket | None = None) -> float | None:
        """Seconds until a newcomer (or this ticket, in its turn and on the lanes that hold it) would get a seat.

        (ahead + 1) x service / slots. Service is the mean of finished requests; before any has finished, the age of the oldest running
        one, which it exceeds.
        Worked number: 7 waiting, 2 slots, 3 s each: 12 s.
        """
        lanes = self._able(ticket) if ticket is not None else [lane for lane in self.lanes if lane.ready]
        ahead = self.waiting.ahead_of(ticket) if ticket is not None else len(self.waiting)
        slots = sum(lane.slots for lane in lanes)
        service_s = self.service_s
        if service_s is None and self.seats:
            service_s = max(now - seat.since_s for seat in self.seats)
        return None if service_s is None or slots == 0 else (ahead + 1) * service_s / slots

    def prefill_s(self, prompt_tokens: int) -> float | None:
        """How long a prompt of that many tokens takes, as measured, faster lanes counting more; None before any was.

        Worked number: 2 slots at 0.0001 s and 1 at 0.0004 s a prompt token: 3 / (2 / 0.0001 + 1 / 0.0004) = 0.000133 s; 1000 take 0.133 s.
        """
        known = [(lane.slots, lane.speed.prompt_s) for lane in self.lanes if lane.ready and lane.speed.prompt_s]
        if not known:
            return None
        return prompt_tokens * sum(slots for slots, _ in known) / sum(slots / prompt_s for slots, prompt_s in known if prompt_s)

    def _able(self, ticket: Ticket) -> list[Lane]:
        return [lane for lane in self.lanes if lane.ready and lane.holds(ticket.need) and lane.id not in ticket.avoid]

    def _take(self, lane: Lane, ticket: Ticket, now: float) -> Seat:
        lane.in_flight += 1
        lane.taken += 1
        if ticket.prefix is not None:
            lane.remember(ticket.prefix)
        seat = Seat(lane, ticket, now, lane.in_flight)
        self.seats.add(seat)
        return seat

    def _fill(self, now: float) -> tuple[Seat, ...]:
        """Seats for those who wait, in their order; one whose lanes are all busy does not block those behind it."""
        granted: list[Seat] = []
        for ahead, place in enumerate(self.waiting.places):
            if not any(lane.open for lane in self.lanes):
                break
            lane = self.pick(place.ticket, now - place.since_s, ahead - len(granted))
            if lane is not None:
                self.waiting.serve(place)
                granted.append(self._take(lane, place.ticket, now))
        return tuple(granted)

    def _rest(self, now: float) -> None:
        """Once a second: what was learned of idle lanes fades a little."""
        since_s = self._rested_s
        if since_s is None:
            self._rested_s = now
        elif now - since_s >= REST_S:
            self._rested_s = now
            for lane in self.lanes:
                if lane.in_flight == 0:
                    lane.speed.rest(now - since_s)


def _average(mean: float | None, value: float, weight: float) -> float:
    return value if mean is None else mean + weight * (value - mean)
