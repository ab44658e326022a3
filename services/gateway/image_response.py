"""The answer to an image request: an engine's pictures, as base64 or under a URL of this gateway."""

from __future__ import annotations

import base64
import binascii
import time
from typing import TYPE_CHECKING, Any

import orjson

from services.gateway.backends import Backend
from services.gateway.engine_errors import AttemptFailed, of_answer, of_stream, of_upstream
from services.gateway.fields import header_value
from services.gateway.image_request import ImageRequest
from services.gateway.image_stream import ImageStream
from services.gateway.outcome import Ending, Outcome, Phase
from services.gateway.phases import PhaseTimer
from services.gateway.scheduler import Need, Ticket
from services.gateway.seated import SeatedResponse
from services.gateway.upstream import Exchange, UpstreamError
from services.wire.errors import BackendFailed, DeadlineExceeded
from services.wire.images import format_of
from services.wire.shapes import image_usage

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.directory import Served

SSE = "text/event-stream; charset=utf-8"


class ImageResponse(SeatedResponse):
    """`base_url`: how the client reaches this gateway, for the URLs of pictures."""

    def __init__(
        self, gateway: Gateway, served: Served, outcome: Outcome, request: ImageRequest, size_px: tuple[int, int] | None, base_url: str
    ) -> None:
        super().__init__(gateway, served, outcome, header_value(request.dropped))
        self.request = request
        self.size_px = size_px
        self.base_url = base_url
        self.queue_s = gateway.settings.deadlines.image_queue_s
        self._body = request.for_engine(served.id, size_px)
        self._owner = outcome.caller.id if outcome.caller else None

    async def ticket(self) -> Ticket:
        """It takes a turn for each picture."""
        need = Need(width_px=self.size_px[0], height_px=self.size_px[1]) if self.size_px else Need()
        return Ticket(need, priority=self.request.priority, key=self._owner, cost=self.request.n)

    async def attempt(self, backend: Backend) -> None:
        """Until the first byte is sent, whatever fails is an attempt that another backend may make better."""
        try:
            await self._attempt(backend)
        except AttemptFailed as failure:
            if not self.started:
                raise
            self.gateway.attempt_failed(backend, failure)
            raise failure.error from None

    async def _attempt(self, backend: Backend) -> None:
        deadlines = self.gateway.settings.deadlines
        request = backend.upstream.request("POST", self.request.route, self._body, self.outcome.engine_request_id)
        exchange: Exchange | None = None
        try:
            async with PhaseTimer(self.outcome, deadlines.total_s) as timer:
                timer.enter(Phase.ANSWER, self._answer_s(backend))
                exchange = await backend.upstream.ask(request, deadlines.connect_s)
                head = await exchange.head()
                if head.status == 200 and self.request.stream:
                    await self._relay(exchange, backend, timer)
                    return
                data = await exchange.read_all(self.gateway.settings.limits.answer_bytes)
            backend.heard_s = time.monotonic()
            if head.status != 200:
                raise of_answer(head.status, data, head.headers.get(b"retry-after", b""))
            await self.send_whole(self._answer(data))
        except UpstreamError as error:
            raise of_upstream(error) from None
        except DeadlineExceeded as error:
            if self.started and self.outcome.phase is Phase.WRITING:  # the client's fault
                raise
            raise AttemptFailed(error, "deadline") from None
        finally:
            if exchange is not None:
                exchange.close()

    async def _relay(self, exchange: Exchange, backend: Backend, timer: PhaseTimer) -> None:
        """Passes the engine's events on as they come. The engine says something at least every ten seconds (a step, or a heartbeat), so
        what counts is the job's own time; the first event comes with the first step, and until then another backend can take over."""
        ends_s = time.monotonic() + self._answer_s(backend)
        stream = ImageStream()
        while not stream.done:
            data = await exchange.read()
            backend.heard_s = time.monotonic()
            events = stream.feed(data) if data else stream.end()
            if stream.usage is not None:
                self.outcome.images = image_usage(stream.usage, stream.pictures)
            if events:
                timer.enter(Phase.WRITING, self.gateway.settings.deadlines.write_s)
                if stream.done:
                    self.outcome.ending = Ending.SERVED
                if not self.started:
                    await self.send_head(200, SSE, {"cache-control": "no-cache", "x-accel-buffering": "no"})
                await self.send_body(events, more=not stream.done)
                timer.enter(Phase.ANSWER, max(0.0, ends_s - time.monotonic()))
            if stream.error is not None:
                raise of_answer(500, stream.error)
            if stream.broken is not None:
                raise of_stream(stream.broken, told=False)

    def _answer_s(self, backend: Backend) -> float:
        """Three times the predicted time of the job, and never less than the setting."""
        deadlines = self.gateway.settings.deadlines
        if backend.lane.unit_s is None:
            return deadlines.total_s
        return min(deadlines.total_s, max(deadlines.image_s, 3 * backend.lane.unit_s * self.request.n))

    def _answer(self, data: bytes) -> bytes:
        """The engine's answer with the pictures in the form that was asked for; both forms when none was named."""
        try:
            answer = orjson.loads(data)
            pictures = answer["data"]
            for picture in pictures:
                self._give(picture)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, binascii.Error, ValueError):
            raise AttemptFailed(BackendFailed("The engine's answer holds no pictures."), "garbled") from None
        self.outcome.images = image_usage(answer.get("usage"), len(pictures))
        return orjson.dumps(answer)

    def _give(self, picture: dict[str, Any]) -> None:
        data = base64.b64decode(picture["b64_json"], validate=True)
        kind = format_of(data)
        if kind is None:
            raise ValueError("not a picture")
        if self.request.response_format != "b64_json":
            picture["url"] = f"{self.base_url}/v1/images/files/{self.gateway.pictures.keep(data, self._owner)}.{kind}"
        if self.request.response_format == "url":
            del picture["b64_json"]
