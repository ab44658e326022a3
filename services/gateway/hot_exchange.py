"""One plain text request on the short way: callbacks instead of coroutines, the same decisions as text_response.py, every duty on.

Nothing waits here except for the engine. What would have to wait for something else (a seat, a tokenizer's count), is refused, or goes
wrong before its first byte where another backend could do better, is the application's.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import orjson

from services.gateway.admission import check_text, surely_admitted
from services.gateway.answer import AnswerParser, BadAnswer
from services.gateway.backends import Backend
from services.gateway.cache_salt import salted
from services.gateway.context import certain_need
from services.gateway.directory import Served
from services.gateway.engine_errors import AttemptFailed, of_answer, of_stream, of_upstream
from services.gateway.hot_head import PlainRequest
from services.gateway.hot_heads import error_answer, last_lines
from services.gateway.keep_alive import FIELD
from services.gateway.outcome import Ending, Outcome, Phase
from services.gateway.phases import SAID, TOO_LONG
from services.gateway.scheduler import Seat, Ticket
from services.gateway.seated import END_OF_ANSWER_S
from services.gateway.stream import TextStream
from services.gateway.text_request import TextRequest, read_text_request
from services.gateway.text_response import answer_s, first_byte_s
from services.gateway.tools import grammar_param
from services.gateway.upstream import BrokenAnswer, Connection, ConnectionCut, GivenUp, UpstreamError
from services.wire.errors import ApiError, BackendFailed, DeadlineExceeded
from services.wire.shapes import token_usage
from services.wire.sse import error_event

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.hot_protocol import HotProtocol

MAX_ERROR_BYTES = 1024 * 1024

class HotExchange:
    """`start` says whether it takes the request; then it writes to the client until `response_complete`.

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

    # --- the request ---

    def start(self) -> bool:
        """1. Read, check and admit, its key too. 2. It is certain to fit the context. 3. Nobody waits before it, a slot is free, and
        its key has some left. 4. Send it.

        False: the application does it from the start, whatever the reason.
        """
        gateway, outcome, plain = self.gateway, self._outcome, self.plain
        try:  # 1
            request = read_text_request(plain.head.route, self._raw[plain.start : plain.end])
            served = gateway.directory.get(request.model)
            if served is None or not surely_admitted(served, "text", gateway.draining):
                return False
            check_text(request, served)
        except ApiError:
            return False
        caller = gateway.ledger.door.plain(plain.head.authorization, served.id)
        if caller is None:
            return False
        need = certain_need(request, served)  # 2
        if need is None or grammar_param(request.body) is not None or request.body.get(FIELD) is not None:
            return False
        ticket, queue = Ticket(need, key=caller.id), served.queue  # 3
        outcome.caller = caller
        if queue.waiting or queue.pick(ticket) is None or not gateway.ledger.taken(outcome):
            return False
        seat = queue.request(ticket, outcome.arrived_s)
        assert seat is not None
        self._request, self._served, self._seat = request, served, seat
        self._backend = gateway.fleet.backends[seat.lane.id]
        outcome.model_id, outcome.stream, outcome.backend, outcome.attempts = served.id, request.stream, self._backend, 1
        outcome.queue_s, outcome.seated_s = 0.0, seat.since_s
        self._send()  # 4
        return True

    def _send(self) -> None:
        """On the youngest idle connection, else on a new one."""
        gateway, now = self.gateway, self._outcome.arrived_s
        deadlines = gateway.settings.deadlines
        self._end_s = now + deadlines.total_s
        if self._request.stream:
            self._text = TextStream(not self._request.asks_usage, self._request.most_events)
            self._enter(Phase.FIRST_BYTE, now, first_byte_s(self._request, self._backend, deadlines.first_byte_s))
        else:
            self._enter(Phase.ANSWER, now, answer_s(self._request, self._backend, deadlines))
        gateway.enter(self)
        gateway.sweep.watch(self)
        connection = self._backend.upstream.take_idle()
        self._reused = connection is not None
        if connection is not None:
            self._ask(connection)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

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

    # --- the engine's answer: Receiver ---

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
        """1. Its answer ends so. 2. A kept connection that was stale: a new one. 3. Cut off."""
        if self.response_complete:
            self._let_go()
        elif self._parser.end():  # 1
            self.received(b"")
        elif self._reused and not self._parser.started:  # 2
            self._reused, self._connection = False, None
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:  # 3
            self._failed(of_upstream(ConnectionCut("cut", not self._parser.started)))

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

    # --- endings: each gives the seat back, exactly once ---

    def _served_whole(self) -> None:
        self._outcome.ending = Ending.SERVED
        if self._paused and self._connection is not None and self._connection.transport is not None:
            self._connection.transport.resume_reading()  # the client is slow, but the engine's connection is for the next request
        self._over(served=True)
        if self._connection is not None and not self._parser.done:  # the last chunk is due at once; without it the connection is lost
            self.due_s = time.monotonic() + END_OF_ANSWER_S
        else:
            self._let_go()

    def _failed(self, failure: AttemptFailed) -> None:
        """1. Nothing was sent, and another backend could do better: the application tries it. 2. Nothing was sent: the error is the answer.
        3. In the middle: one error event, and the connection is cut, so that nobody takes the rest for a whole answer."""
        self._let_go()
        if self.response_complete:
            return
        self.gateway.attempt_failed(self._backend, failure)
        tried = frozenset({self._backend.id})
        other = not self._started and failure.retry and self._served.queue.can_serve(Ticket(self._seat.ticket.need, tried))
        if other and self.gateway.may_retry():  # 1
            self._give_back(served=False)
            self.gateway.leave(self)
            self.gateway.ledger.undo(self._outcome)
            self.response_complete = True
            self._protocol.to_application(self._raw[: self.plain.end], self.keep_alive, tried)
            return
        self._end_with(failure.error, Ending.FAILED if failure.error.status >= 500 else Ending.REFUSED)  # 2, 3

    def _end_with(self, error: ApiError, ending: Ending) -> None:
        outcome, transport = self._outcome, self._transport
        self.gateway.ended_by(outcome, error, ending)
        if self._started:
            event = error_event(error)
            transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.keep_alive = False
        else:
            outcome.status = error.status
            defaults = self._protocol.server_state.default_headers
            transport.write(error_answer(error, self._backend, self._request.dropped, defaults, outcome.request_id, self.keep_alive))
        self._over(served=False)

    def client_gone(self) -> None:
        """Its connection is lost: the engine's is ended at once, so that it frees the sequence."""
        self._let_go()
        if not self.response_complete:
            self._outcome.ending, self._outcome.status = Ending.CLIENT_GONE, 499
            self._over(served=False, gone=True)

    def stop(self, error: ApiError) -> None:
        """Ends it with `error`: the gateway can't wait any longer."""
        self._let_go()
        if not self.response_complete:
            self.keep_alive = False
            self._end_with(error, Ending.DRAINED)

    def _over(self, served: bool, gone: bool = False) -> None:
        self.response_complete = True
        outcome, text = self._outcome, self._text
        outcome.ended_s = time.monotonic()
        if text is not None:
            outcome.first_s, outcome.last_s, outcome.tokens = text.first_s, text.last_s, text.usage
        self._give_back(served)
        self.gateway.leave(self)
        self.gateway.record(self._outcome)
        if not gone:
            self._protocol.answered(self.keep_alive)

    def _give_back(self, served: bool) -> None:
        self.gateway.dispatcher.give_back(self._served.id, self._seat, served)

    def _let_go(self) -> None:
        """No deadline, no connection from here on: the connection goes back when its answer was read to the end, else it is ended."""
        self.gateway.sweep.forget(self)
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        self._backend.upstream.unanswered.discard(self)
        if connection is not None and connection.receiver is self:
            connection.receiver = None
            if self._parser.reusable and connection.usable:
                self._backend.upstream.give_back(connection)
            else:
                connection.abort()

    def give_up(self) -> None:
        """The engine's worker has fallen silent, and another can answer: as upstream.Exchange."""
        if not self._parser.started:
            self._failed(of_upstream(GivenUp("the engine's worker fell silent before the answer began")))

    # --- time and back-pressure ---

    def _enter(self, phase: Phase, now: float, seconds: float) -> None:
        self._outcome.phase = phase
        self.due_s = min(now + seconds, self._end_s)

    def too_late(self, now: float) -> None:
        """From the sweep. 1. All was sent, only the engine's end of it is missing. 2. The client does not read: the engine is well. 3. The
        engine's fault."""
        if self.response_complete:  # 1
            self._let_go()
            return
        phase, deadlines = self._outcome.phase, self.gateway.settings.deadlines
        over = now >= self._end_s
        limits = {Phase.STREAMING: deadlines.inter_token_s, Phase.WRITING: deadlines.write_s}
        seconds = deadlines.total_s if over else limits.get(phase, self.due_s - self._outcome.arrived_s)
        error = DeadlineExceeded((TOO_LONG if over else SAID.get(phase, TOO_LONG)).format(seconds))
        if phase is Phase.WRITING:  # 2
            self._let_go()
            self._end_with(error, Ending.FAILED)
        else:  # 3
            self._failed(AttemptFailed(error, "deadline"))

    def pause(self) -> None:
        """The client reads slower than the engine writes."""
        if self._connection is not None and self._connection.transport is not None and not self._paused:
            self._paused = True
            self._connection.transport.pause_reading()
            self._enter(Phase.WRITING, time.monotonic(), self.gateway.settings.deadlines.write_s)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._enter(Phase.STREAMING, time.monotonic(), self.gateway.settings.deadlines.inter_token_s)
            if self._connection is not None and self._connection.transport is not None:
                self._connection.transport.resume_reading()
