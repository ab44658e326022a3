"""A server with a known time to first token and between tokens, to measure the measuring. Bare asyncio, OpenAI's streaming.

    python -m loadtest.mock --port 0 --ttft-ms 200 --itl-ms 20 --tokens 50

Each token leaves at its own due time (no drift); GET /lateness says how late this process really was, so its own error can be told from
the client's. Prints one line `mock ready on http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json

_EVENT = b'{"id":"m","object":"chat.completion.chunk","created":1,"model":"mock","choices":'
ROLE = b'data: %b[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n' % _EVENT
WORD = b'data: %b[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n' % _EVENT
LAST = b'data: %b[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n' % _EVENT
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PROMPT_TOKENS = 12


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _plain(status: bytes, body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(data), data)


class Mock:
    """The opening event (a role, no content) goes out at once: a client that takes it, or the headers, for the first token is found out.
    `role_with_first`: it waits for the first token, as vLLM's does."""

    def __init__(self, ttft_s: float, itl_s: float, tokens: int, role_with_first: bool = False) -> None:
        self.ttft_s, self.itl_s, self.tokens, self.role_with_first = ttft_s, itl_s, tokens, role_with_first
        self.first_late_s: list[float] = []
        self.spans_s: list[float] = []
        self.sent_tokens = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                size = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
                body = await reader.readexactly(size)
                await self._answer(lines[0], body, asyncio.get_running_loop().time(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes, body: bytes, came_s: float, writer: asyncio.StreamWriter) -> None:
        if line.startswith(b"post /v1/chat/completions"):
            wanted = json.loads(body).get("max_tokens") or self.tokens
            return await self._stream(min(wanted, self.tokens), came_s, writer)
        if line.startswith(b"get /v1/models"):
            writer.write(_plain(b"200 OK", {"object": "list", "data": [{"id": "mock", "object": "model"}]}))
        elif line.startswith(b"get /lateness"):
            said = {"first_late_s": self.first_late_s, "spans_s": self.spans_s, "sent_tokens": self.sent_tokens}
            writer.write(_plain(b"200 OK", said))
            self.first_late_s, self.spans_s, self.sent_tokens = [], [], 0
        else:
            writer.write(_plain(b"404 Not Found", {"error": {"message": "no such route", "code": "not_found"}}))
        await writer.drain()

    async def _stream(self, tokens: int, came_s: float, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        word, first_s, opening = _chunk(WORD), 0.0, HEAD + _chunk(ROLE)
        if not self.role_with_first:
            writer.write(opening)
        for number in range(tokens):
            due_s = came_s + self.ttft_s + number * self.itl_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if number == 0:
                first_s = loop.time()
                self.first_late_s.append(first_s - due_s)
                writer.write(opening if self.role_with_first else b"")
            writer.write(word)
            self.sent_tokens += 1
        self.spans_s.append(loop.time() - first_s)
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}
        tail = b'data: {"id":"m","object":"chat.completion.chunk","choices":[],"usage":%b}\n\n' % json.dumps(usage).encode()
        writer.write(_chunk(LAST) + _chunk(tail) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


async def serve(port: int, mock: Mock) -> None:
    server = await asyncio.start_server(mock.connection, "127.0.0.1", port, backlog=2048)
    print(f"mock ready on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A server with known times, to calibrate a load generator.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-ms", type=float, default=200.0)
    parser.add_argument("--itl-ms", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=50, help="tokens of an answer, at most")
    parser.add_argument("--role-with-first", action="store_true", help="the opening event comes with the first token, not before it")
    given = parser.parse_args()
    known = Mock(given.ttft_ms / 1000, given.itl_ms / 1000, given.tokens, given.role_with_first)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.port, known))


if __name__ == "__main__":
    main()
