"""The answer to a chat or completion request: an engine's bytes, passed on and measured; a broken one never ends as if it were whole."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import orjson

from services.gateway.admission import context_exceeded
from services.gateway.backends import Backend
from services.gateway.cache_salt import salted
from services.gateway.context import certain_need, count_prompt
from services.gateway.engine_errors import AttemptFailed, lacks_route, of_answer, of_grammar, of_lacking, of_stream, of_upstream
from services.gateway.event_stream import EventStream
from services.gateway.fields import header_value
from services.gateway.outcome import Ending, Outcome, Phase
from services.gateway.phases import PhaseTimer
from services.gateway.rerank import in_one_form
from services.gateway.scheduler import Need, Ticket
from services.gateway.seated import END_OF_ANSWER_S, SeatedResponse
from services.gateway.settings import Deadlines
from services.gateway.stream import TextStream
from services.gateway.text_request import DIALECTS, TextRequest
from services.gateway.text_ticket import text_ticket
from services.gateway.tickets import queue_limit_s
from services.gateway.tools import grammar_param
from services.gateway.upstream import Exchange, UpstreamError
from services.wire.errors import BackendFailed, DeadlineExceeded
from services.wire.shapes import plain_usage, token_usage

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.directory import Served

WELL_S = 2.0  # an engine that is well answers /health within this
BYTES_PER_TOKEN = 4  # of English text, roughly; only scales a deadline
SSE = "text/event-stream; charset=utf-8"


class TextResponse(SeatedResponse):
    def __init__(
        self, gateway: Gateway, served: Served, outcome: Outcome, request: TextRequest, tried: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(gateway, served, outcome, header_value(request.dropped), tried)
        self.request = request
        outcome.sequences = request.n
        self.queue_s = gateway.settings.deadlines.queue_s
        self._body = request.for_engine(served.id)
        self._prompt_tokens: int | None = None

    async def ticket(self) -> Ticket:
        """What is left of the time to its first token, once its prompt is taken off, is how long it may wait."""
        need = await self._need()
        goal_s, queue_s = self.gateway.settings.deadlines.ttft_s, None
        if goal_s < math.inf and not self.request.priority:
            prompt_tokens = self._prompt_tokens or int(len(self.request.raw) / BYTES_PER_TOKEN)
            queue_s = queue_limit_s(goal_s, self.served.queue.prefill_s(prompt_tokens))
        return text_ticket(self.request, need, self.outcome.key_id, self.tried, queue_s)

    async def _need(self) -> Need:
        """Tokens of context. 1. Certain without asking. 2. The engine counts."""
        certain = certain_need(self.request, self.served)
        if certain is not None:  # 1
            return certain
        contexts = [backend.lane.context_tokens for backend in self.served.backends]
        known = [context for context in contexts if context is not None]
        backend = next((b for b in self.served.ready if b.lane.context_tokens is not None), None)  # 2
        if backend is None:
            return Need()
        timeout_s = self.gateway.settings.deadlines.tokenize_s
        self._prompt_tokens = await count_prompt(self.request, backend.upstream, backend.engine, self.served.id, timeout_s)
        if self._prompt_tokens is None:
            return Need()
        tokens = self._prompt_tokens + self.request.output_tokens
        if len(known) == len(contexts) and tokens > max(known):
            raise context_exceeded(self.request, self._prompt_tokens, self.served)
        return Need(tokens=tokens)

    async def attempt(self, backend: Backend) -> None:
        """A 500 to a request with a schema, of an engine that is well, is the schema's fault and not the engine's."""
        try:
            await self._attempt(backend)
        except AttemptFailed as failure:
            param = grammar_param(self.request.body) if failure.own_500 and not self.started else None
            if param is None or not await _is_well(backend):
                raise
            raise of_grammar(param) from None

    async def _attempt(self, backend: Backend) -> None:
        deadlines = self.gateway.settings.deadlines
        body = salted(self._body, self.outcome.caller, backend)
        request = backend.upstream.request("POST", self.request.route, body, self.outcome.engine_request_id)
        exchange: Exchange | None = None
        try:
            async with PhaseTimer(self.outcome, deadlines.total_s) as timer:
                first_s = self._patience_s(backend)
                timer.enter(Phase.FIRST_BYTE if self.request.stream else Phase.ANSWER, first_s)
                exchange = await backend.upstream.ask(request, deadlines.connect_s)
                head = await exchange.head()
                if head.status != 200:
                    body = await exchange.read_all(1024 * 1024)
                    if lacks_route(self.request.route, head.status, body):
                        raise of_lacking(self.request.route, self.served.id)
                    raise of_answer(head.status, body, head.headers.get(b"retry-after", b""))
                if self.request.stream:
                    await self._stream(exchange, backend, timer)
                else:
                    await self._whole(exchange, backend)
        except UpstreamError as error:
            failure = of_upstream(error)
            if not self.started:
                raise failure from None
            self.gateway.attempt_failed(backend, failure)
            raise failure.error from None
        except DeadlineExceeded as error:
            failure = AttemptFailed(error, "deadline")
            if not self.started:
                raise failure from None
            if self.outcome.phase is not Phase.WRITING:
                self.gateway.attempt_failed(backend, failure)
            raise
        finally:
            if exchange is not None:
                exchange.close()

    async def _whole(self, exchange: Exchange, backend: Backend) -> None:
        data = await exchange.read_all(self.gateway.settings.limits.answer_bytes)
        backend.heard_s = time.monotonic()
        try:
            answer = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise AttemptFailed(BackendFailed("The engine's answer is not JSON."), "garbled") from None
        if not isinstance(answer, dict) or answer.get("error") is not None:
            raise of_answer(500, data)
        usage = answer.get("usage")
        self.outcome.tokens = plain_usage(usage) if self.request.route in DIALECTS else token_usage(usage)
        if self.request.route == "/v1/rerank":
            ranked = in_one_form(answer, self.request.body)
            if ranked is None:
                raise AttemptFailed(BackendFailed("The engine's answer is no reranking."), "garbled")
            data = orjson.dumps(ranked)
        await self.send_whole(data)

    async def _stream(self, exchange: Exchange, backend: Backend, timer: PhaseTimer) -> None:
        """Passes events on as they come. What comes before the first content is held back: until then another backend can take over."""
        deadlines = self.gateway.settings.deadlines
        kind = EventStream if self.request.route in DIALECTS else TextStream
        stream = kind(not self.request.asks_usage, self.request.most_events)
        held = b""
        while not stream.done:
            data = await exchange.read()
            now = time.monotonic()
            backend.heard_s = now
            if data:
                held += stream.feed(data, now)
            else:
                stream.end()
            self.outcome.first_s, self.outcome.last_s, self.outcome.tokens = stream.first_s, stream.last_s, stream.usage
            if stream.broken is None and stream.first_s is None and not stream.done:
                continue
            if stream.broken is not None and stream.first_s is None:
                raise of_stream(stream.broken, stream.told)
            if held:
                timer.enter(Phase.WRITING, deadlines.write_s)
                if stream.done:
                    self.outcome.ending = Ending.SERVED
                if not self.started:
                    await self.send_head(200, SSE, {"cache-control": "no-cache", "x-accel-buffering": "no"})
                await self.send_body(held, more=not stream.done)
                held = b""
            if stream.broken is not None:
                failure = of_stream(stream.broken, stream.told)
                self.gateway.attempt_failed(backend, failure)
                raise failure.error
            timer.enter(Phase.STREAMING, deadlines.inter_token_s)
        await _to_the_end(exchange)

    def _patience_s(self, backend: Backend) -> float:
        """How long until the first token of a stream, or the whole of another answer, must be there."""
        deadlines = self.gateway.settings.deadlines
        if self.request.stream:
            return first_byte_s(self.request, backend, deadlines.first_byte_s, self._prompt_tokens)
        return answer_s(self.request, backend, deadlines, self._prompt_tokens)


def first_byte_s(request: TextRequest, backend: Backend, least_s: float, prompt_tokens: int | None = None) -> float:
    """Five times the predicted prefill, and never less than the setting."""
    speed = backend.placement.report.speed if backend.placement else None
    if speed is None or not speed.prefill_tok_s:
        return least_s
    return max(least_s, 5 * (prompt_tokens or len(request.raw) / BYTES_PER_TOKEN) / speed.prefill_tok_s)


def answer_s(request: TextRequest, backend: Backend, deadlines: Deadlines, prompt_tokens: int | None = None) -> float:
    """A whole answer has no first token to wait for: ten times its predicted time where its length and the speed are known."""
    if request.max_tokens is None or backend.lane.unit_s is None:
        return deadlines.total_s
    first_s = first_byte_s(request, backend, deadlines.first_byte_s, prompt_tokens)
    return min(deadlines.total_s, first_s + 10 * request.max_tokens * backend.lane.unit_s)


async def _is_well(backend: Backend) -> bool:
    """Whether the engine's health route answers that it is."""
    try:
        status, _ = await backend.upstream.fetch("GET", backend.probe_path, timeout_s=WELL_S)
    except (UpstreamError, TimeoutError):
        return False
    return status < 500


async def _to_the_end(exchange: Exchange) -> None:
    """Lets the last chunk come in, so that the connection can be used again; it is due at once."""
    try:
        async with asyncio.timeout(END_OF_ANSWER_S):
            while await exchange.read():
                pass
    except (TimeoutError, UpstreamError):
        return
