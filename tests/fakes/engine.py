"""A fake inference engine: a real process on a real port that speaks what vLLM, llama.cpp and our diffusion server speak.

    python -m tests.fakes.engine --port 0 --model tiny [--token-file F] [--ttft-s 0.01] [--itl-s 0.005] [--context 2048]
        [--flavour vllm|llama.cpp|diffusers] [--load-s S] [--fault MODE] [--placement ID --card ID]

With --placement it answers GET /status as that placement's worker too (state by /fake/settings {"worker_state": "loading"}).

It prints one line `fake engine ready on http://127.0.0.1:PORT` when it listens. The routes under /fake steer it:

    POST /fake/fault {"mode": M, "after_tokens": 3, "times": 1, "delay_s": 8}   the next `times` requests meet M (null: all)
    POST /fake/settings {"itl_s": 0.1, "ttft_s": 0.0, "context": 64, "slots": 4}
    POST /fake/reset      no fault, settings of the command line, counters 0
    GET  /fake/state      {"running", "served", "aborted", "chunks", "heartbeats", "model_connections",
                          "seen": [{"path", "headers", "body"}]}

Faults of a request: die_mid_stream (TCP reset after `after_tokens`), die_before_first, hang, stall (after `after_tokens`),
eof_without_done, done_only, role_only, error_event, bad_chunk, half_utf8, split_chunks, big_chunk (one of 10 MB),
fat_chunks (each 64 KiB), endless (goes on past max_tokens),
error_400, error_429, error_500, error_503, out_of_memory, not_a_png, exit (the whole process).
Faults of side routes: slow_health, health_503, slow_tokenize. `loading`: 503 everywhere, as llama.cpp does.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.fakes import answers
from tests.fakes.http import Reply, Request, Server

SIDE_FAULTS = {"slow_health", "health_503", "slow_tokenize"}
HEARTBEAT_ID = "rigserve-heartbeat"  # services/gateway/heartbeat.py
IMAGE_ROUTES = {"/v1/images/generations", "/v1/images/edits"}
POOLING_ROUTES = {"/v1/embeddings", "/v1/rerank"}
DIALECTS = {"/v1/messages", "/v1/responses"}
MODEL_ROUTES = {"/v1/chat/completions", "/v1/completions"} | DIALECTS | POOLING_ROUTES | IMAGE_ROUTES


@dataclass(frozen=True, slots=True)
class Settings:
    model: str
    flavour: str = "vllm"
    ttft_s: float = 0.0
    itl_s: float = 0.0
    context: int = 2048
    step_s: float = 0.0
    prompt_token_s: float = 0.0
    placement: str | None = None
    card: str = "sim-0"
    worker_state: str = "ready"
    slots: int | None = None  # texts at a time, the others wait; None: all run
    said: str | None = None  # the text of every answer, in pieces of a few letters; None: w0 w1 w2
    status: dict[str, Any] | None = None  # what the worker's status says else


@dataclass(slots=True)
class Fault:
    mode: str | None = None
    after_tokens: int = 3
    times: int | None = None
    delay_s: float = 8.0

    def take(self) -> str | None:
        """The fault that this request meets; counts down `times`."""
        if self.mode is None or self.mode in SIDE_FAULTS:
            return None
        if self.times is not None:
            if self.times <= 0:
                return None
            self.times -= 1
        return self.mode


class FakeEngine:
    def __init__(self, settings: Settings, token: str | None, fault: Fault, load_s: float) -> None:
        self.first_settings = self.settings = settings
        self.token = token
        self.fault = fault
        self.ready_at = time.monotonic() + load_s
        self.running = self.served = self.aborted = self.chunks = self.heartbeats = 0
        self.prompt_tokens = self.output_tokens = 0
        self.seen: list[dict[str, Any]] = []
        self.model_connections: set[int] = set()
        self.slot = asyncio.Lock()
        self.freed = asyncio.Condition()
        self.generating = 0

    def on_abort(self, request: Request, reply: Reply) -> None:
        if request.path in MODEL_ROUTES and request.headers.get("x-request-id") != HEARTBEAT_ID:
            self.aborted += 1

    async def handle(self, request: Request, reply: Reply) -> None:
        if request.path.startswith("/fake/"):
            return await self.steer(request, reply)
        if request.path == "/health":
            return await self.health(reply)
        if request.path == "/status" and self.fault.mode == "slow_health":
            await asyncio.sleep(self.fault.delay_s)
        given = request.headers.get("authorization", "").encode("latin1")
        if self.token and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            return await reply.send(401, answers.error(self.settings.flavour, 401, "Invalid API key"))
        if time.monotonic() < self.ready_at or self.fault.mode == "loading":
            return await reply.send(503, answers.error(self.settings.flavour, 503, "Loading model"))
        if request.path in MODEL_ROUTES:
            return await self.model_route(request, reply)
        return await self.side_route(request, reply)

    async def health(self, reply: Reply) -> None:
        if self.fault.mode == "slow_health":
            await asyncio.sleep(self.fault.delay_s)
        bad = time.monotonic() < self.ready_at or self.fault.mode in {"health_503", "loading"}
        await reply.send(503 if bad else 200, b"" if self.settings.flavour == "vllm" else {"status": "loading" if bad else "ok"})

    async def side_route(self, request: Request, reply: Reply) -> None:
        settings = self.settings
        if request.path == "/v1/models":
            card = {"id": settings.model, "object": "model", "created": 0, "owned_by": "fake", "max_model_len": settings.context}
            return await reply.send(200, {"object": "list", "data": [card]})
        if request.path == "/status" and settings.placement:
            status = answers.worker_status(settings.placement, settings.model, settings.card, settings.worker_state)
            return await reply.send(200, status | (settings.status or {}))
        if request.path == "/metrics":
            text = answers.metrics(settings.flavour, settings.model, self.running, self.prompt_tokens, self.output_tokens)
            return await reply.send(200, text.encode(), "text/plain; version=0.0.4")
        if request.path == "/tokenize" and self.fault.mode == "slow_tokenize":
            await asyncio.sleep(self.fault.delay_s)
        if request.path == "/tokenize" and settings.flavour != "diffusers":
            return await reply.send(200, answers.tokenize(settings.flavour, request.json(), settings.context))
        if request.path == "/apply-template" and settings.flavour == "llama.cpp":
            return await reply.send(200, {"prompt": answers.prompt_text(request.json())})
        await reply.send(404, {"detail": "Not Found"})

    async def model_route(self, request: Request, reply: Reply) -> None:
        body = request.json()
        if request.headers.get("x-request-id") == HEARTBEAT_ID:
            return await self.heartbeat(body, request, reply)
        self.model_connections.add(id(reply.writer))
        self.seen.append({"path": request.path, "headers": request.headers, "body": body})
        fault = self.fault.take()
        self.running += 1
        try:
            if fault:
                await self.before_first(fault, reply)
            if reply.started:
                return
            if request.path in IMAGE_ROUTES:
                await self.image(request.path, body, fault, reply)
            else:
                async with self.slot_for_text():
                    await (self.pooled if request.path in POOLING_ROUTES else self.text)(request.path, body, fault, reply)
            self.served += 1
        finally:
            self.running -= 1
            self.chunks += reply.chunks

    @asynccontextmanager
    async def slot_for_text(self) -> AsyncIterator[None]:
        async with self.freed:
            await self.freed.wait_for(lambda: self.settings.slots is None or self.generating < self.settings.slots)
            self.generating += 1
        try:
            yield
        finally:
            self.generating -= 1
            async with self.freed:
                self.freed.notify()

    async def heartbeat(self, body: dict[str, Any], request: Request, reply: Reply) -> None:
        """A request of the gateway's own: meets the fault, uses none up, and is counted apart."""
        self.heartbeats += 1
        fault = self.fault.mode if self.fault.times != 0 else None
        if fault and fault not in SIDE_FAULTS:
            await self.before_first("hang" if fault == "stall" else fault, reply)
        if not reply.started:
            await reply.send(200, answers.Shape(False, self.settings.model, 1, 1, 1).whole())

    async def before_first(self, fault: str, reply: Reply) -> None:
        if fault == "die_before_first":
            reply.reset()
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "exit":
            os._exit(9)
        if fault == "out_of_memory":
            await reply.send(500, answers.error(self.settings.flavour, 500, "CUDA out of memory. Tried to allocate 1.00 GiB."))
        if fault == "not_a_png":
            await reply.send(200, {"created": 1, "data": [{"b64_json": "aGVsbG8="}]})
        if fault.startswith("error_") and fault != "error_event":
            status = int(fault.removeprefix("error_"))
            await reply.send(status, answers.error(self.settings.flavour, status, f"fake failure {status}"))

    async def image(self, path: str, body: dict[str, Any], fault: str | None, reply: Reply) -> None:
        async with self.slot:
            answer = answers.images(body)
            if body.get("stream"):
                return await self.image_stream(path, body, answer, fault, reply)
            await asyncio.sleep(self.settings.ttft_s + self.settings.step_s * answer["usage"]["steps"])
            await reply.send(200, answer)

    async def image_stream(self, path: str, body: dict[str, Any], answer: dict[str, Any], fault: str | None, reply: Reply) -> None:
        kind = "image_edit" if path.endswith("edits") else "image_generation"
        steps = body.get("steps") or 10
        for number in range(1, steps + 1):
            await asyncio.sleep(self.settings.step_s)
            if number == 1:
                await reply.start()
            if fault and number == self.fault.after_tokens:
                if fault == "die_mid_stream":
                    reply.reset()
                if fault == "stall":
                    await asyncio.sleep(3600)
                if fault == "bad_chunk":
                    await reply.chunk(b"data: {]\n\n")
                if fault == "error_event":
                    said = {"error": {"message": "16x16 ran out of memory on cuda:0.", "code": "backend_out_of_memory"}}
                    await reply.chunk(b"data: " + json.dumps(said).encode() + b"\n\n")
                    return await reply.end()
                if fault == "eof_without_done":
                    return await reply.end()
            await reply.chunk(answers.image_event(f"{kind}.progress", {"step": number, "steps": steps}))
        for picture in answer["data"]:
            await reply.chunk(answers.image_event(f"{kind}.completed", picture | {"usage": answer["usage"]}))
        await reply.chunk(b"data: [DONE]\n\n")
        await reply.end()

    async def text(self, path: str, body: dict[str, Any], fault: str | None, reply: Reply) -> None:
        settings = self.settings
        prompt = answers.count(answers.prompt_text(body))
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens") or 16
        if prompt + wanted > settings.context:
            return await reply.send(400, answers.too_long(settings.flavour, prompt, wanted, settings.context))
        self.prompt_tokens += prompt
        await asyncio.sleep(settings.ttft_s + settings.prompt_token_s * prompt)
        if path in DIALECTS:
            return await self.dialect(path, bool(body.get("stream")), prompt, wanted, fault, reply)
        pieces = None if settings.said is None else answers.pieces(settings.said)
        tokens = len(pieces) if pieces else wanted
        shape = answers.Shape(path.endswith("/chat/completions"), settings.model, body.get("n") or 1, prompt, tokens)
        if not body.get("stream"):
            await asyncio.sleep(settings.itl_s * wanted)
            self.output_tokens += wanted * shape.n
            if fault == "die_mid_stream":
                reply.reset()
            return await reply.send(200, shape.whole())
        await reply.start()
        await self.stream(shape, fault, bool((body.get("stream_options") or {}).get("include_usage")), reply, pieces)

    async def dialect(self, path: str, streams: bool, prompt: int, tokens: int, fault: str | None, reply: Reply) -> None:
        events = answers.dialect_events(path, self.settings.model, prompt, tokens)
        self.output_tokens += tokens
        if not streams:
            return await reply.send(200, answers.dialect(path, self.settings.model, prompt, tokens))
        await reply.start()
        for number, event in enumerate(events):
            if fault == "eof_without_done" and number == self.fault.after_tokens:
                return await reply.end()
            if fault == "error_event" and number == self.fault.after_tokens:
                said = {"type": "error", "error": {"type": "api_error", "message": "EngineCore died"}}
                await reply.chunk(answers.image_event("error", said))
                return await reply.end()
            await reply.chunk(event)
            await asyncio.sleep(self.settings.itl_s)
        await reply.end()

    async def pooled(self, path: str, body: dict[str, Any], fault: str | None, reply: Reply) -> None:
        """Numbers for texts: nothing is generated, so each text must fit the context by itself."""
        settings = self.settings
        counts = [answers.count(text) for text in answers.pooled_texts(body)]
        if max(counts) > settings.context:
            return await reply.send(400, answers.too_long(settings.flavour, max(counts), 0, settings.context))
        self.prompt_tokens += sum(counts)
        await asyncio.sleep(settings.ttft_s + settings.prompt_token_s * sum(counts))
        made = answers.embeddings if path == "/v1/embeddings" else answers.reranking
        await reply.send(200, made(settings.flavour, settings.model, body, counts))

    async def stream(self, shape: answers.Shape, fault: str | None, usage: bool, reply: Reply, pieces: list[str] | None = None) -> None:
        if fault == "done_only":
            await reply.chunk(b"data: [DONE]\n\n")
            return await reply.end()
        for event in shape.opening():
            await reply.chunk(event)
        tokens = {"role_only": 0, "endless": 10**6}.get(fault or "", shape.tokens)
        for i in range(tokens):
            if fault and i == self.fault.after_tokens:
                await self.mid_stream(fault, shape, reply)
                if fault in {"eof_without_done", "error_event"}:
                    return await reply.end()
            event = shape.event(i, "x" * 65536 if fault == "fat_chunks" else pieces[i] if pieces and i < len(pieces) else None)
            if fault == "split_chunks":
                for piece in (event[:7], event[7:-1], event[-1:]):
                    await reply.chunk(piece)
                    await asyncio.sleep(0.001)
            else:
                await reply.chunk(event)
            self.output_tokens += shape.n
            if self.settings.itl_s:
                await asyncio.sleep(self.settings.itl_s)
        for event in shape.closing(usage, with_finish=fault != "role_only"):
            await reply.chunk(event)
        await reply.end()

    async def mid_stream(self, fault: str, shape: answers.Shape, reply: Reply) -> None:
        if fault == "die_mid_stream":
            reply.reset()
        if fault == "close_mid_stream":
            reply.close()
        if fault == "stall":
            await asyncio.sleep(3600)
        if fault == "bad_chunk":
            await reply.chunk(b'data: {"choices": [{"delta": \n\n')
        if fault == "half_utf8":
            await reply.chunk(b'data: {"choices":[{"index":0,"delta":{"content":"\xc3"}}]}\n\n')
        if fault == "big_chunk":
            await reply.chunk(shape.event(0, "x" * 10_000_000))
        if fault == "error_event":
            await reply.chunk(b"data: " + json.dumps(answers.error(self.settings.flavour, 500, "EngineCore died")).encode() + b"\n\n")

    async def steer(self, request: Request, reply: Reply) -> None:
        if request.path == "/fake/fault":
            self.fault = Fault(**request.json())
        elif request.path == "/fake/settings":
            self.settings = replace(self.settings, **request.json())
        elif request.path == "/fake/reset":
            self.fault, self.settings, self.seen = Fault(), self.first_settings, []
            self.served = self.aborted = self.chunks = self.heartbeats = 0
            self.model_connections.clear()
        counters = ("running", "served", "aborted", "chunks", "heartbeats", "seen", "prompt_tokens", "output_tokens")
        state: dict[str, Any] = {name: getattr(self, name) for name in counters}
        await reply.send(200, state | {"model_connections": len(self.model_connections)})


async def serve(host: str, port: int, engine: FakeEngine) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    web = Server(engine.handle, engine.on_abort)
    listening = await web.listen(host, port)
    print(f"fake engine ready on http://{host}:{listening.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    listening.close()
    for writer in list(web.open):
        writer.transport.abort()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake inference engine for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", required=True)
    parser.add_argument("--flavour", choices=["vllm", "llama.cpp", "diffusers"], default="vllm")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--ttft-s", type=float, default=0.0)
    parser.add_argument("--itl-s", type=float, default=0.0)
    parser.add_argument("--step-s", type=float, default=0.0, help="seconds of one denoise step")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--slots", type=int, help="texts at a time")
    parser.add_argument("--load-s", type=float, default=0.0, help="seconds of 503 after the start")
    parser.add_argument("--placement", help="answer GET /status too, as the worker of this placement")
    parser.add_argument("--card", default="sim-0", help="the card of that placement")
    parser.add_argument("--fault", help="a fault from the start")
    args = parser.parse_args()
    token = args.token_file.read_text().strip() if args.token_file else None
    settings = Settings(
        args.model, args.flavour, args.ttft_s, args.itl_s, args.context, args.step_s, placement=args.placement, card=args.card,
        slots=args.slots,
    )
    asyncio.run(serve(args.host, args.port, FakeEngine(settings, token, Fault(args.fault), args.load_s)))


if __name__ == "__main__":
    main()
