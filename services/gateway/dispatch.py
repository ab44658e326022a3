"""Seats for coroutines: the asyncio shell around the pure scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from services.gateway.scheduler import PASS_S, Changes, ModelQueue, NobodyServes, QueueIsFull, Seat, Ticket
from services.wire.errors import DeadlineExceeded, NoAvailableWorker, QueueFull

GONE = "The last worker that could serve this request went away while it waited; try again."
GONE_RETRY_S = 5.0


class Dispatcher:
    """One ModelQueue per model id, and a future for each ticket that waits."""

    def __init__(self, queues: dict[str, ModelQueue]) -> None:
        self.queues = queues
        self._watched: set[ModelQueue] = set()
        self._futures: dict[Ticket, asyncio.Future[Seat]] = {}

    @asynccontextmanager
    async def seat(self, model_id: str, ticket: Ticket, queue_s: float, again: bool = False) -> AsyncIterator[Seat]:
        """A seat for the time of the block; given back however the block ends.

        Raises QueueFull (also at once when the wait would be longer than `queue_s` or the ticket's own limit), DeadlineExceeded after that
        long in the queue, NoAvailableWorker when the last lane that could serve it went away since it was admitted.
        """
        queue = self.queues[model_id]
        seat = await self._take(queue, model_id, ticket, queue_s, again)
        served = False
        try:
            yield seat
            served = True
        finally:
            self._apply(queue, queue.give_back(seat, time.monotonic(), served))

    async def _take(self, queue: ModelQueue, model_id: str, ticket: Ticket, queue_s: float, again: bool) -> Seat:
        limit_s = queue_s if ticket.queue_s is None else min(queue_s, ticket.queue_s)
        ticket = replace(ticket, queue_s=limit_s)
        try:
            seat = queue.request(ticket, time.monotonic(), again)
        except QueueIsFull as full:
            why = f"{full.waiting} requests are already waiting for it"
            if full.too_late and full.wait_s is not None:
                why = f"a slot would become free in about {full.wait_s:.1f} s, later than the {limit_s:g} s that this request may wait"
            raise QueueFull(f"{model_id} is busy and {why}; try again later.", retry_after_s=full.wait_s or 1.0) from None
        except NobodyServes:
            raise NoAvailableWorker(GONE, retry_after_s=GONE_RETRY_S) from None
        if seat is not None:
            return seat
        future: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        self._futures[ticket] = future
        self._watch(queue)
        try:
            async with asyncio.timeout(limit_s):
                return await future
        except BaseException as error:  # whatever ends the wait, a cancellation too, must give the place back; it is raised again
            queue.cancel(ticket)
            if queue.shares_cards:
                self._apply(queue, Changes())  # text gives way to an image that waits: that may be over now
            if future.done() and not future.cancelled() and future.exception() is None:
                # The seat came in the same moment as the end of the wait: nobody else would give it back.
                self._apply(queue, queue.give_back(future.result(), time.monotonic(), served=False))
            if isinstance(error, TimeoutError):
                message = f"No slot of {model_id} became free within {limit_s:g} s."
                raise DeadlineExceeded(message, retry_after_s=queue.expected_wait_s(time.monotonic())) from None
            raise
        finally:
            del self._futures[ticket]

    def give_back(self, model_id: str, seat: Seat, served: bool) -> None:
        """The seat of someone who took it from the queue without waiting."""
        queue = self.queues[model_id]
        self._apply(queue, queue.give_back(seat, time.monotonic(), served))

    def slots_grew(self, model_id: str) -> None:
        """A lane of the model has learned that it has more slots: those who wait may have them."""
        queue = self.queues[model_id]
        if queue.waiting:
            self._apply(queue, queue.look_again(time.monotonic()))

    def add(self, queues: dict[str, ModelQueue]) -> None:
        """These too from now on. None ever goes: seats of a model that is gone are still to be given back."""
        self.queues |= queues

    def set_ready(self, model_id: str, lane_id: str, ready: bool) -> None:
        """Opens or closes one lane; those who waited for it are told."""
        queue = self.queues[model_id]
        lane = next(lane for lane in queue.lanes if lane.id == lane_id)
        if lane.ready != ready:
            self._apply(queue, queue.set_ready(lane, ready, time.monotonic()))

    def tell_orphans(self, model_id: str) -> None:
        """What will be ready has changed: those who now wait for nothing are told."""
        queue = self.queues[model_id]
        for lane in queue.lanes[:1]:
            self._apply(queue, queue.set_ready(lane, lane.ready, time.monotonic()))

    def _apply(self, queue: ModelQueue, changes: Changes) -> None:
        self._tell(queue, changes)
        for mate in self.queues.values():  # those whose lanes are on the same cards
            if mate is not queue and mate.waiting and mate.shares_cards:
                self._tell(mate, mate.look_again(time.monotonic()))
        self._watch(queue)

    def _tell(self, queue: ModelQueue, changes: Changes) -> None:
        for seat in changes.granted:
            future = self._futures.get(seat.ticket)
            if future is None or future.done():  # cancelled in this very moment: the seat goes on to the next
                self._tell(queue, queue.give_back(seat, time.monotonic(), served=False))
            else:
                future.set_result(seat)
        for ticket in changes.orphaned:
            future = self._futures.get(ticket)
            if future is not None and not future.done():
                future.set_exception(NoAvailableWorker(GONE, retry_after_s=GONE_RETRY_S))

    def _watch(self, queue: ModelQueue) -> None:
        """Someone waits although a lane is open: it hopes for a faster one, and time changes what is best for it."""
        if queue.someone_passes and queue not in self._watched:
            self._watched.add(queue)
            asyncio.get_running_loop().call_later(PASS_S, self._look_again, queue)

    def _look_again(self, queue: ModelQueue) -> None:
        self._watched.discard(queue)
        self._apply(queue, queue.look_again(time.monotonic()))
