"""The answer to an image request: an engine's pictures, as base64 or under a URL of this gateway."""

from __future__ import annotations

import base64
import binascii
import time
from typing import TYPE_CHECKING, Any

import orjson

from services.gateway.backends import Backend
from services.gateway.engine_errors import AttemptFailed, of_answer, of_upstream
from services.gateway.fields import header_value
from services.gateway.image_request import ImageRequest
from services.gateway.outcome import Outcome, Phase
from services.gateway.phases import PhaseTimer
from services.gateway.scheduler import Need
from services.gateway.seated import SeatedResponse
from services.gateway.upstream import Exchange, UpstreamError
from services.wire.errors import BackendFailed, DeadlineExceeded
from services.wire.shapes import image_usage

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.directory import Served

PNG = b"\x89PNG\r\n\x1a\n"


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

    async def need(self) -> Need:
        return Need(width_px=self.size_px[0], height_px=self.size_px[1]) if self.size_px else Need()

    async def attempt(self, backend: Backend) -> None:
        deadlines = self.gateway.settings.deadlines
        request = backend.upstream.request("POST", "/v1/images/generations", self._body, self.outcome.engine_request_id)
        exchange: Exchange | None = None
        try:
            async with PhaseTimer(self.outcome, deadlines.total_s) as timer:
                timer.enter(Phase.ANSWER, self._answer_s(backend))
                exchange = await backend.upstream.ask(request, deadlines.connect_s)
                head = await exchange.head()
                data = await exchange.read_all(self.gateway.settings.limits.answer_bytes)
            backend.heard_s = time.monotonic()
            if head.status != 200:
                raise of_answer(head.status, data, head.headers.get(b"retry-after", b""))
            await self.send_whole(self._answer(data))
        except UpstreamError as error:
            raise of_upstream(error) from None
        except DeadlineExceeded as error:
            raise AttemptFailed(error, "deadline") from None
        finally:
            if exchange is not None:
                exchange.close()

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
        png = base64.b64decode(picture["b64_json"], validate=True)
        if not png.startswith(PNG):
            raise ValueError("not a PNG")
        if self.request.response_format != "b64_json":
            picture["url"] = f"{self.base_url}/v1/images/files/{self.gateway.pictures.keep(png, self._owner)}.png"
        if self.request.response_format == "url":
            del picture["b64_json"]
