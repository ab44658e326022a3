"""One plain text request on the short way: callbacks instead of coroutines, the same decisions as text_response.py, every duty on.

Nothing waits here except for the engine. What would have to wait for something else (a seat, a tokenizer's count), is refused, or goes
wrong before its first byte where another backend could do better, is the application's.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from services.gateway.admission import check_text, surely_admitted
from services.gateway.context import certain_need
from services.gateway.engine_errors import AttemptFailed
from services.gateway.hot_answer import HotAnswer
from services.gateway.hot_heads import error_answer
from services.gateway.outcome import Ending, Phase
from services.gateway.phases import SAID, TOO_LONG
from services.gateway.seated import END_OF_ANSWER_S
from services.gateway.stream import TextStream
from services.gateway.text_request import read_text_request
from services.gateway.text_response import answer_s, first_byte_s
from services.gateway.text_ticket import text_ticket
from services.gateway.tools import grammar_param
from services.wire.errors import ApiError, DeadlineExceeded
from services.wire.sse import error_event


class HotExchange(HotAnswer):
    """`start` says whether it takes the request; then it writes to the client until `response_complete`."""

    __slots__ = ()

    # --- the request ---

    def start(self) -> bool:
        """1. Read, check and admit, its key too. 2. It is certain to fit the context. 3. Nobody waits before it, a slot is free, and
        its key has some left. 4. Send it.

        False: the application does it from the start, whatever the reason: what nobody foresaw is a 500 there, with its traceback in the
        log, and here would be a connection without an answer.
        """
        gateway, outcome, plain = self.gateway, self._outcome, self.plain
        try:  # 1
            request = read_text_request(plain.head.route, self._raw[plain.start : plain.end])
            served = gateway.directory.get(request.model)
            if served is None or not surely_admitted(served, "text", gateway.draining):
                return False
            check_text(request, served)
        except Exception:  # noqa: BLE001 - the application meets it again, logs it and answers 500; nothing was taken yet
            return False
        caller = gateway.ledger.door.plain(plain.head.authorization, served.id)
        if caller is None:
            return False
        need = certain_need(request, served)  # 2
        if need is None or grammar_param(request.body) is not None or request.keep_alive is not None:
            return False
        seat = served.queue.at_once(text_ticket(request, need, caller.id), outcome.arrived_s)  # 3
        if seat is None:
            return False
        outcome.caller = caller
        if not gateway.ledger.taken(outcome):
            gateway.dispatcher.give_back(served.id, seat, served=False)
            return False
        self._request, self._served, self._seat = request, served, seat
        self._backend = gateway.fleet.backends[seat.lane.id]
        outcome.model_id, outcome.stream, outcome.backend, outcome.attempts = served.id, request.stream, self._backend, 1
        outcome.queue_s, outcome.seated_s, outcome.level, outcome.sequences = 0.0, seat.since_s, seat.level, request.n
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
        other = not self._started and failure.retry and self._served.queue.can_serve(replace(self._seat.ticket, avoid=tried))
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
