"""The engine's side of a plain request on the short way: its connection, and its answer on to the client as it comes.

Every byte passes here: what runs per read or per chunk is `received`, `_passes_as_it_is`, `_stream` and, of whole answers, `_gather`.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from typing import TYPE_CHECKING

import orjson

from services.gateway.answer import AnswerParser, BadAnswer
from services.gateway.backends import Backend
from services.gateway.cache_salt import salted
from services.gateway.directory import Served
from services.gateway.engine_errors import AttemptFailed, of_answer, of_stream, of_upstream
from services.gateway.hot_head import PlainRequest
from services.gateway.hot_heads import last_lines
from services.gateway.outcome import Outcome, Phase
from services.gateway.scheduler import Seat
from services.gateway.stream import TextStream
from services.gateway.text_request import TextRequest
from services.gateway.upstream import STALE_S, BrokenAnswer, Connection, ConnectionCut, GivenUp, UpstreamError
from services.wire.errors import BackendFailed
from services.wire.shapes import token_usage

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.hot_protocol import HotProtocol

MAX_ERROR_BYTES = 1024 * 1024


class HotAnswer:
    """What of one exchange has to do with the engine; hot_exchange.py has the rest of it.

    `raw` is what was read, the head of the request at its beginning. `flowing`: the head and the first content of a stream have gone on.
    """

    __slots__ = (
        "_backend", "_connecting", "_connection", "_end_s", "_flowing", "_held", "_outcome", "_parser", "_paused", "_protocol", "_raw",
        "_request", "_reused", "_seat", "_served", "_started", "_text", "_transport", "_whole", "due_s", "gateway", "keep_alive", "plain",
        "response_complete",
    )  # fmt: skip
    _backend: Backend
    _request: TextRequest
    _seat: Seat
    _served: Served

    def __init__(self, protocol: HotProtocol, gateway: Gateway, plain: PlainRequest, raw: bytes) -> None:
        self._protocol, self.gateway, self.plain, self._raw = protocol, gateway, plain, raw
        self._transport = protocol.transport
        engine_id = gateway.ids.next()
        self._outcome = Outcome(plain.head.given_id or engine_id, engine_id, plain.head.route, time.monotonic())
        self._parser = AnswerParser()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._text: TextStream | None = None
        self._held = b""
        self._whole: list[bytes] = []
        self.due_s = self._end_s = 0.0
        self._started = self._flowing = self._paused = self._reused = self.response_complete = False
        self.keep_alive = True

    # --- how it ends: hot_exchange.py ---

    @abstractmethod
    def _served_whole(self) -> None:
        """All was sent."""

    @abstractmethod
    def _failed(self, failure: AttemptFailed) -> None:
        """This attempt gave nothing, or broke off."""

    @abstractmethod
    def _let_go(self) -> None:
        """No deadline, no connection from here on."""

    # --- the connection ---

    async def _connect(self) -> None:
        try:
            connection = await self._backend.upstream.connect(self.gateway.settings.deadlines.connect_s)
        except UpstreamError as error:
            self._connecting = None
            self._failed(of_upstream(error))
            return
        self._connecting = None
        self._ask(connection)

    def _ask(self, connection: Connection) -> None:
        assert connection.transport is not None
        self._connection = connection
        connection.receiver = self
        upstream, outcome = self._backend.upstream, self._outcome
        upstream.unanswered.add(self)
        body = salted(self._request.for_engine(self._served.id), outcome.caller, self._backend)
        connection.transport.write(upstream.post(outcome.route, body, outcome.engine_request_id))

    # --- the answer: Receiver ---

    def received(self, data: bytes) -> None:
        if self._flowing and self._passes_as_it_is(data):
            return
        if self._parser.head is None:
            self._backend.upstream.unanswered.discard(self)
        try:
            body = self._parser.feed(data)
        except BadAnswer as error:
            self._failed(of_upstream(BrokenAnswer(str(error))))
            return
        head = self._parser.head
        if self.response_complete:  # the client has it all; the engine's last bytes make the connection usable again
            if self._parser.done:
                self._let_go()
        elif head is None:
            return
        elif head.status != 200:
            self._whole.append(body)
            if self._parser.done or sum(map(len, self._whole)) > MAX_ERROR_BYTES:
                self._failed(of_answer(head.status, b"".join(self._whole), head.headers.get(b"retry-after", b"")))
        elif self._text is not None:
            self._stream(self._text, body)
        else:
            self._gather(body)

    def lost(self, error: Exception | None) -> None:
        """1. Its answer ends so. 2. A kept connection that was stale (as upstream.ask): a new one. 3. Cut off."""
        if self.response_complete:
            self._let_go()
        elif self._parser.end():  # 1
            self.received(b"")
        elif self._reused and not self._parser.started and time.monotonic() - self._outcome.arrived_s <= STALE_S:  # 2
            self._reused, self._connection = False, None
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:  # 3
            self._failed(of_upstream(ConnectionCut("cut", not self._parser.started)))

    def give_up(self) -> None:
        """The engine's worker has fallen silent, and another can answer: as upstream.Exchange."""
        if not self._parser.started:
            self._failed(of_upstream(GivenUp("the engine's worker fell silent before the answer began")))

    def _gather(self, body: bytes) -> None:
        self._whole.append(body)
        if not self._parser.done:
            if sum(map(len, self._whole)) > self.gateway.settings.limits.answer_bytes:
                self._failed(of_upstream(BrokenAnswer("the engine's answer is too long")))
            return
        data = self._whole[0] if len(self._whole) == 1 else b"".join(self._whole)
        self._backend.heard_s = time.monotonic()
        try:
            answer = orjson.loads(data)
        except orjson.JSONDecodeError:
            self._failed(AttemptFailed(BackendFailed("The engine's answer is not JSON."), "garbled"))
            return
        if not isinstance(answer, dict) or "error" in answer:
            self._failed(of_answer(500, data))
            return
        self._outcome.tokens = token_usage(answer.get("usage"))
        self._started, self._outcome.status = True, 200
        heads, defaults = self._protocol.answer_heads, self._protocol.server_state.default_headers
        self._transport.write(heads.whole(self._backend, len(data), defaults, self._last_lines()) + data)
        self._served_whole()

    def _passes_as_it_is(self, data: bytes) -> bool:
        """The common read of a stream: one chunk of the transfer encoding with one ordinary event in it. Its bytes, framing included, are
        what the client is to get."""
        start, text = self._parser.one_chunk(data), self._text
        if not start or text is None:
            return False
        now = time.monotonic()
        if not text.plain_event(data, start, len(data) - 2, now):
            return False
        self._backend.heard_s = now
        if not self._paused:
            due_s = now + self.gateway.settings.deadlines.inter_token_s
            self.due_s = due_s if due_s < self._end_s else self._end_s
        self._transport.write(data)
        return True

    def _stream(self, text: TextStream, body: bytes) -> None:
        """Passes events on as they come. What comes before the first content is held back: until then another backend can take over."""
        now = time.monotonic()
        self._backend.heard_s = now
        out = text.feed(body, now) if body else b""
        if self._parser.done:
            text.end()
        if text.broken is not None:
            self._held += out
            self._broken(text)
            return
        if text.first_s is None and not text.done:
            self._held += out
            return
        if not self._started:
            out, self._held = self._held + out, b""
            framed = self._stream_head() + b"%x\r\n%b\r\n" % (len(out), out)
        elif out:
            framed = b"%x\r\n%b\r\n" % (len(out), out)
        else:
            framed = b""
        if text.done:
            self._transport.write(framed + b"0\r\n\r\n")
            self._served_whole()
            return
        if not self._paused:
            self._outcome.phase = Phase.STREAMING
            self.due_s = min(now + self.gateway.settings.deadlines.inter_token_s, self._end_s)
        self._flowing = True
        if framed:
            self._transport.write(framed)

    def _broken(self, text: TextStream) -> None:
        failure = of_stream(text.broken or "", text.told)
        if text.first_s is not None and not self._started:  # content and fault came in one read: what came is the client's
            self._transport.write(self._stream_head())
        if self._started and self._held:
            self._transport.write(b"%x\r\n%b\r\n" % (len(self._held), self._held))
        self._failed(failure)

    def _stream_head(self) -> bytes:
        """The head of the stream; from here on a failure can only be told inside the body."""
        self._started, self._outcome.status = True, 200
        return self._protocol.answer_heads.stream(self._backend, self._protocol.server_state.default_headers, self._last_lines())

    def _last_lines(self) -> bytes:
        return last_lines(self._outcome.request_id, self.keep_alive, self._request.dropped)
