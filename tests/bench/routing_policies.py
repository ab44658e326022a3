"""Who gets a request: the policies that are compared. Those of others as their documentation describes them; ours is the gateway's own
ModelQueue, driven by the simulated clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from services.gateway.lane import Lane
from services.gateway.lane_slots import Measured
from services.gateway.scheduler import PASS_S, Changes, ModelQueue, QueueIsFull, Seat
from services.gateway.tickets import Need, Ticket, queue_limit_s
from tests.bench.routing_cards import Card, Clock, Request

TTFT_GOAL_S = 2.0
QUEUE_PLACES = 1024


class Policy(Protocol):
    def arrived(self, request: Request) -> None: ...
    def ended(self, request: Request) -> None: ...
    def gave_up(self, request: Request) -> None: ...


class Direct:
    """Sends each request to a card at once; it waits there."""

    def __init__(self, cards: list[Card], choose: Callable[[list[Card]], Card]) -> None:
        self.cards, self.choose = cards, choose

    def arrived(self, request: Request) -> None:
        self.choose(self.cards).take(request)

    def ended(self, request: Request) -> None:
        return

    def gave_up(self, request: Request) -> None:
        if request.card is not None:
            self.cards[request.card].drop(request)


def round_robin(cards: list[Card], clock: Clock, seed: int) -> Policy:
    turn = iter(range(10**9))
    return Direct(cards, lambda cards: cards[next(turn) % len(cards)])


def least_connections(cards: list[Card], clock: Clock, seed: int) -> Policy:
    """The fewest in flight; of equals a random one."""
    dice = random.Random(seed)
    return Direct(cards, lambda cards: min(cards, key=lambda card: (card.in_flight, dice.random())))


def power_of_two(cards: list[Card], clock: Clock, seed: int) -> Policy:
    """Two at random, the one with fewer in flight."""
    dice = random.Random(seed)
    return Direct(cards, lambda cards: min(dice.sample(cards, 2), key=lambda card: card.in_flight))


def weighted_by_hand(cards: list[Card], clock: Clock, seed: int) -> Policy:
    """Least connections with weights that someone has set to each card's slots / token time, from before any change."""
    weight = {card.index: card.slots / card.token_s for card in cards}
    return Direct(cards, lambda cards: min(cards, key=lambda card: (card.in_flight + 1) / weight[card.index]))


class Ours:
    """The gateway's queue. It starts cold: no speed is known, and with `know_slots` false no slots either."""

    def __init__(self, cards: list[Card], clock: Clock, know_slots: bool) -> None:
        self.cards, self.clock = cards, clock
        lanes = [Lane(str(card.index), card.slots if know_slots else None, ready=True) for card in cards]
        self.queue = ModelQueue(QUEUE_PLACES, lanes)
        self.seats: dict[Request, Seat] = {}
        self.tickets: dict[Ticket, Request] = {}

    def arrived(self, request: Request) -> None:
        need = Need(tokens=request.prompt_tokens + request.output_tokens)
        queue_s = queue_limit_s(TTFT_GOAL_S, self.queue.prefill_s(request.prompt_tokens))
        ticket = Ticket(need, prefix=request.prefix, key=request.key, queue_s=queue_s)
        try:
            seat = self.queue.request(ticket, self.clock.now)
        except QueueIsFull:
            request.refused_s = self.clock.now
            return
        if seat is not None:
            self._send(request, seat)
            return
        self.tickets[ticket] = request
        assert ticket.queue_s is not None
        self.clock.at(self.clock.now + ticket.queue_s, lambda: self._late(ticket))
        self._watch()

    def ended(self, request: Request) -> None:
        seat = self.seats.pop(request)
        assert request.done_s is not None
        assert request.first_s is not None
        unit_s = (request.done_s - request.first_s) / (request.output_tokens - 1)
        took_s, first_s = request.done_s - seat.since_s, request.first_s - seat.since_s
        seat.lane.measured(Measured(unit_s, seat.level, took_s, first_s, request.prompt_tokens))
        self._apply(self.queue.give_back(seat, self.clock.now))

    def gave_up(self, request: Request) -> None:
        if request in self.seats:
            assert request.card is not None
            self.cards[request.card].drop(request)
            self._apply(self.queue.give_back(self.seats.pop(request), self.clock.now, served=False))

    def _send(self, request: Request, seat: Seat) -> None:
        self.seats[request] = seat
        self.cards[int(seat.lane.id)].take(request)

    def _late(self, ticket: Ticket) -> None:
        request = self.tickets.pop(ticket, None)
        if request is not None:
            self.queue.cancel(ticket)
            request.refused_s = self.clock.now

    def _apply(self, changes: Changes) -> None:
        for seat in changes.granted:
            self._send(self.tickets.pop(seat.ticket), seat)
        self._watch()

    def _watch(self) -> None:
        if self.queue.someone_passes:
            self.clock.at(self.clock.now + PASS_S, self._look_again)

    def _look_again(self) -> None:
        for seat in self.queue.look_again(self.clock.now).granted:
            self._send(self.tickets.pop(seat.ticket), seat)


def ours(cards: list[Card], clock: Clock, seed: int) -> Policy:
    return Ours(cards, clock, know_slots=True)


def ours_learning_slots(cards: list[Card], clock: Clock, seed: int) -> Policy:
    return Ours(cards, clock, know_slots=False)
