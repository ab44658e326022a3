"""A mock engine as fast as Python can make one: bare protocol on uvloop, answers made beforehand.

    python -m tests.bench.mock_engine --port 9001 --chunks 100 --interval-ms 50

Any POST is answered like a chat completion: at once, or (`"stream":true`) as server-sent events, one chunk of the transfer encoding each.
A stream gets one event per interval, as decoding does; with `"seed":77` all of them as fast as the socket takes them.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

MODEL = "bench-model"
_CHUNK = b'{"id":"chatcmpl-b","object":"chat.completion.chunk","created":1,"model":"bench-model","choices":'
_WHOLE = b'{"id":"chatcmpl-b","object":"chat.completion","created":1,"model":"bench-model","choices":'
ROLE = b'data: %b[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n' % _CHUNK
WORD = b'data: %b[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n' % _CHUNK
LAST = b'data: %b[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' % _CHUNK
ANSWER = (
    b'%b[{"index":0,"message":{"role":"assistant","content":"a word or two"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":4,"total_tokens":16}}' % _WHOLE
)
MODELS = b'{"object":"list","data":[{"id":"bench-model","object":"model","created":1,"owned_by":"bench"}]}'


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


def _usage(tokens: int) -> bytes:
    return (
        b'data: {"id":"chatcmpl-b","object":"chat.completion.chunk","created":1,"model":"bench-model","choices":[],'
        b'"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d}}\n\n' % (tokens, 12 + tokens)
    )


def _plain(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
OK, NOT_FOUND = _plain(b"200 OK", b"{}"), _plain(b"404 Not Found", b"{}")


class MockEngine(asyncio.Protocol):
    """One connection: requests one after another, as every gateway's keep-alive pool sends them."""

    def __init__(self, chunks: int, interval_s: float) -> None:
        self._chunks, self._interval_s = chunks, interval_s
        self._buffer = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 : (head.find(b"\r\n", at) + 1 or end + 1) - 1]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + size:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"post "):
            if b'"stream":true' in body or b'"stream": true' in body:
                self._stream(b"include_usage" in body, b'"seed":77' not in body)
            else:
                self._transport.write(_plain(b"200 OK", ANSWER))
        elif head.startswith(b"get /v1/models"):
            self._transport.write(_plain(b"200 OK", MODELS))
        else:
            self._transport.write(OK if head.startswith(b"get /health") else NOT_FOUND)

    def _stream(self, with_usage: bool, paced: bool) -> None:
        events = [_framed(WORD)] * self._chunks
        tail = _framed(LAST) + (_framed(_usage(self._chunks)) if with_usage else b"") + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self._transport.write(STREAM_HEAD + _framed(ROLE))
        if not paced:
            for event in events:
                self._transport.write(event)
            self._transport.write(tail)
            return
        loop = asyncio.get_running_loop()
        due = loop.time()

        def step(left: int) -> None:
            nonlocal due
            if self._transport.is_closing():
                return
            if left == 0:
                self._transport.write(tail)
                return
            self._transport.write(events[0])
            due += self._interval_s
            self._timer = loop.call_at(due, step, left - 1)

        step(self._chunks)


async def serve(port: int, chunks: int, interval_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: MockEngine(chunks, interval_s), "127.0.0.1", port, backlog=2048)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A mock engine for benchmarks.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=100, help="content events of a stream")
    parser.add_argument("--interval-ms", type=float, default=50.0, help="between two events of a stream")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.chunks, given.interval_ms / 1000))


if __name__ == "__main__":
    main()
