"""A load generator on a bare protocol: counts and times answers, trusts nothing.

Every answer is checked: status 200, whole, and a stream must hold every content event that the mock sent and end with [DONE].
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

PATH = "/v1/chat/completions"
WORDS = b'"content":" word"'


@dataclass(slots=True)
class Tally:
    """What a run saw. Times in seconds; `first_s` are times to the first content event of streams."""

    done: int = 0
    chunks: int = 0
    errors: int = 0
    truncated: int = 0
    latency_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    problems: set[str] = field(default_factory=set)


def request_bytes(port: int, stream: bool, key: str, flood: bool) -> bytes:
    body = (
        b'{"model":"bench-model","messages":[{"role":"user","content":"Tell me about mining cards, in a sentence or two, please."}],'
        b'"max_tokens":100,"temperature":0.7%s%s}' % (b',"stream":true' if stream else b"", b',"seed":77' if flood else b"")
    )
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer, until `until_s` (a stream that runs then is still read to its end)."""

    def __init__(self, request: bytes, tally: Tally, words: int | None, until_s: float) -> None:
        self._request, self._tally, self._words, self._until_s = request, tally, words, until_s
        self._transport: asyncio.Transport
        self._begun_s = 0.0
        self._head: bytes | None = None
        self._buffer = b""
        self._length = 0
        self._seen = 0
        self._tail = b""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._head, self._buffer, self._seen, self._tail = None, b"", 0, b""
        self._begun_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head, data = self._buffer[:end].lower(), self._buffer[end + 4 :]
            self._buffer = b""
            if not self._head.startswith((b"http/1.1 200", b"http/1.0 200")):
                self._problem("status " + self._head.split(b"\r\n")[0].decode("latin1"))
                return
            at = self._head.find(b"content-length:")
            self._length = int(self._head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else -1
        if self._words is None:
            self._plain(data)
        else:
            self._stream(data)

    def _plain(self, data: bytes) -> None:
        self._buffer += data
        whole = len(self._buffer) >= self._length if self._length >= 0 else self._buffer.endswith(b"0\r\n\r\n")
        if whole:
            if b'"a word or two"' not in self._buffer:
                self._problem("another body")
                return
            self._over()

    def _stream(self, data: bytes) -> None:
        # A marker may lie across two reads: count on the new bytes with the end of the old ones before them.
        joined = self._tail + data
        found = joined.count(WORDS)
        self._tail = joined[-(len(WORDS) - 1) :]
        if found and not self._seen:
            self._tally.first_s.append(time.perf_counter() - self._begun_s)
        self._seen += found
        self._tally.chunks += found
        if joined.endswith(b"0\r\n\r\n"):
            if self._seen != self._words or b"[DONE]" not in joined[-200:] + self._buffer:
                self._tally.truncated += 1
                self._tally.problems.add(f"a stream of {self._seen} content events instead of {self._words}")
            self._over()
        else:
            self._buffer = joined[-200:]

    def _over(self) -> None:
        now = time.perf_counter()
        self._tally.done += 1
        self._tally.latency_s.append(now - self._begun_s)
        if now < self._until_s:
            self._ask()
        else:
            self._end()

    def _problem(self, what: str) -> None:
        self._tally.errors += 1
        self._tally.problems.add(what)
        self._end()

    def _end(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._tally.errors += 1
            self._tally.problems.add(f"connection ended inside an answer ({exc})")
            self.finished.set_result(None)


async def run(
    port: int, connections: int, seconds: float, *, words: int | None = None, key: str = "bench", flood: bool = False, pause_s: float = 0.0
) -> Tally:
    """`connections` at once for `seconds`; `words`: streams of so many content events, paced unless `flood`. `pause_s` between two
    connects, so that paced streams don't all tick together."""
    tally = Tally()
    request = request_bytes(port, words is not None, key, flood)
    until_s = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for _ in range(connections):
        try:
            _, client = await loop.create_connection(lambda: Client(request, tally, words, until_s), "127.0.0.1", port)
        except OSError as error:
            tally.errors += 1
            tally.problems.add(f"no connection: {error}")
            continue
        clients.append(client)
        if pause_s:
            await asyncio.sleep(pause_s)
    if clients:
        await asyncio.wait([client.finished for client in clients], timeout=seconds + 60)
    for client in clients:
        if not client.finished.done():
            tally.errors += 1
            tally.problems.add("an answer that did not end within a minute")
            client._transport.abort()
    return tally
