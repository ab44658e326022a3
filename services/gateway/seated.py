"""A response that owns its seat.

It takes the seat when it is called and gives it back in every ending: served, refused, failed, client gone, gateway stopping. A seat held
around a returned StreamingResponse is given back before the first byte; one taken inside its generator turns a refusal into a broken 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.backends import Backend
from services.gateway.engine_errors import AttemptFailed
from services.gateway.keep_alive import KeepAlive
from services.gateway.outcome import Ending, Outcome, Phase
from services.gateway.scheduler import Ticket
from services.wire.errors import ApiError, InternalError
from services.wire.sse import error_event

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.directory import Served

ATTEMPTS = 2
END_OF_ANSWER_S = 0.2
LAST_WORDS_S = 1.0


class SeatedResponse(Response):
    """One admitted request. Subclasses say what one attempt on one backend is, and how long may be waited for a seat."""

    def __init__(self, gateway: Gateway, served: Served, outcome: Outcome, dropped: str, tried: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.gateway = gateway
        self.served = served
        self.outcome = outcome
        self.dropped = dropped
        self.tried = tried  # backends that the short way has asked in vain
        self.started = False
        self.queue_s = 0.0
        self.keep_alive: KeepAlive | None = None
        self._stopping: ApiError | None = None
        self._work: asyncio.Task[None] | None = None
        self._send: Send

    @abstractmethod
    async def ticket(self) -> Ticket:
        """What the request asks of a backend, for whom and how urgently. Raises ApiError when none can hold it."""

    @abstractmethod
    async def attempt(self, backend: Backend) -> None:
        """Asks one backend and sends its answer. Raises AttemptFailed only while nothing was sent, else ApiError."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._work = asyncio.create_task(self._run())
        gone = asyncio.create_task(_disconnected(receive))
        self.gateway.enter(self)
        try:
            await asyncio.wait((self._work, gone), return_when=asyncio.FIRST_COMPLETED)
            if self.outcome.ending is Ending.SERVED:  # all is sent; only the engine's connection is still being tidied up
                await asyncio.wait((self._work,), timeout=END_OF_ANSWER_S)
            elif not self._work.done():
                self.outcome.ending, self.outcome.status = Ending.CLIENT_GONE, 499
        finally:
            gone.cancel()
            self._work.cancel()
            await asyncio.wait((self._work, gone))
            self._ended(self._work)

    def _ended(self, work: asyncio.Task[None]) -> None:
        """Records what became of it. An error that nobody foresaw goes on to the process border, which answers 500."""
        outcome = self.outcome
        outcome.ended_s = time.monotonic()
        error = None if work.cancelled() else work.exception()
        if error is not None:
            outcome.ending, outcome.code = Ending.FAILED, InternalError.code
        self.gateway.leave(self)
        self.gateway.record(outcome)
        if error is not None:
            raise error

    def stop(self, error: ApiError) -> None:
        """Ends it with `error`: the gateway can't wait any longer."""
        self._stopping = error
        if self._work is not None:
            self._work.cancel()

    async def _run(self) -> None:
        try:
            await self._serve()
        except ApiError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            if self._stopping is None:
                raise
            self.outcome.ending = Ending.DRAINED
            await self._fail(self._stopping)

    async def _serve(self) -> None:
        """1. What does it need? 2. A seat, and an attempt. 3. One more on another backend, if nothing was sent and one could do better."""
        ticket = await self.ticket()  # 1
        self.outcome.phase = Phase.QUEUED
        asked_s = time.monotonic()
        for number in range(1 + len(self.tried), ATTEMPTS + 1):
            try:
                async with self.gateway.roles.seat(self, ticket, again=number > 1) as seat:  # 2
                    backend = self.gateway.fleet.backends[seat.lane.id]
                    outcome = self.outcome
                    outcome.backend, outcome.attempts, outcome.seated_s, outcome.level = backend, number, seat.since_s, seat.level
                    if outcome.queue_s is None:
                        outcome.queue_s = max(0.0, seat.since_s - asked_s)
                    await self.attempt(backend)
                    return
            except AttemptFailed as failure:
                self.gateway.attempt_failed(backend, failure)
                ticket = replace(ticket, avoid=ticket.avoid | {backend.id})
                if not failure.retry or number == ATTEMPTS or not self.served.queue.can_serve(ticket) or not self.gateway.may_retry():
                    raise failure.error from None  # 3
                self.outcome.phase = Phase.QUEUED

    async def send_head(self, status: int, content_type: str, more: dict[str, str] | None = None, length: int | None = None) -> None:
        """Status and headers; from here on a failure can only be told inside the body."""
        outcome, backend = self.outcome, self.outcome.backend
        headers = {"content-type": content_type, **(more or {})}
        if length is not None:
            headers["content-length"] = str(length)
        if backend is not None:
            headers["x-rigserve-backend"] = backend.id
            headers["x-rigserve-attempts"] = str(outcome.attempts)
            headers["x-rigserve-queue-ms"] = f"{(outcome.queue_s or 0) * 1000:.0f}"
            if backend.card is not None:
                headers["x-rigserve-card"] = backend.card.id
        if self.dropped:
            headers["x-rigserve-dropped-fields"] = self.dropped
        self.started = True
        outcome.status = status
        raw = [(name.encode("latin1"), value.encode("latin1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def ping(self, comment: bytes) -> None:
        """One SSE comment, before anything else of a stream; the answer's status is said with the first."""
        if not self.started:
            await self.send_head(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache", "x-accel-buffering": "no"})
        await self.send_body(comment, more=True)

    async def send_body(self, data: bytes, more: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def send_whole(self, data: bytes) -> None:
        """A whole 200 answer in JSON."""
        self.outcome.ending = Ending.SERVED
        await self.send_head(200, "application/json", length=len(data))
        await self.send_body(data)

    async def _fail(self, error: ApiError) -> None:
        """Before the first byte: the error as the answer. After it: one error event, and the connection is cut by returning unfinished,
        so that no client can take the rest for a whole answer."""
        outcome = self.outcome
        ending = Ending.FAILED if outcome.attempts > 0 and error.status >= 500 else Ending.REFUSED
        self.gateway.ended_by(outcome, error, Ending.DRAINED if outcome.ending is Ending.DRAINED else ending)
        with contextlib.suppress(TimeoutError):  # a client that does not read gets no last words either
            async with asyncio.timeout(LAST_WORDS_S):
                if self.started:
                    await self.send_body(error_event(error), more=True)
                    return
                body = orjson.dumps(error.body())
                await self.send_head(error.status, "application/json", error.headers(), len(body))
                await self.send_body(body)


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has left. Its body was read before, so nothing else is to come."""
    while (await receive())["type"] != "http.disconnect":
        pass
