"""A load generator on a bare protocol: counts and times answers, trusts nothing.

Every answer is checked: status 200, whole, and a stream must hold every content event that the mock sent and end with [DONE].
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools

PATH = "/v1/chat/completions"
WORDS = b'"content":" word"'
VARIETY = 16


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


def request_bytes(port: int, stream: bool, key: str, flood: bool) -> tuple[bytes, ...]:
    """Requests of VARIETY different lengths, as people ask different things: a gateway that knows a head again must know it by more than
    its bytes."""
    made = []
    for number in range(VARIETY):
        body = (
            b'{"model":"bench-model","messages":[{"role":"user","content":"Tell me about mining cards%b, please."}],'
            b'"max_tokens":100,"temperature":0.7%b%b}'
            % (b", in a sentence or two" + b" or more" * number, b',"stream":true' if stream else b"", b',"seed":77' if flood else b"")
        )
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        made.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return tuple(made)


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer, until `until_s` (a stream that runs then is still read to its end).

    The answer goes through httptools' parser: a router may cut the body into other chunks than the engine did, in the middle of an event,
    so events are counted in the body and never in the bytes on the wire.
    """

    def __init__(self, requests: Sequence[bytes], tally: Tally, words: int | None, until_s: float) -> None:
        self._requests, self._tally, self._words, self._until_s = requests, tally, words, until_s
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._asked = id(self)
        self._begun_s = 0.0
        self._seen = 0
        self._body: list[bytes] = []
        self._tail = b""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._seen, self._tail, self._body = 0, b"", []
        self._asked += 1
        self._begun_s = time.perf_counter()
        self._transport.write(self._requests[self._asked % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._problem(f"not HTTP: {error}")

    # --- the parser's callbacks ---

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._problem(f"status {status}")

    def on_body(self, body: bytes) -> None:
        if self._words is None:
            self._body.append(body)
            return
        # A marker may lie across two reads: count on the new bytes with the end of the old ones before them.
        joined = self._tail + body
        found = joined.count(WORDS)
        self._tail = joined[-(len(WORDS) - 1) :]
        if found and not self._seen:
            self._tally.first_s.append(time.perf_counter() - self._begun_s)
        self._seen += found
        self._tally.chunks += found

    def on_message_complete(self) -> None:
        if self.finished.done():  # a problem ended it
            return
        if self._words is None and b'"a word or two"' not in b"".join(self._body):
            self._problem("another body")
            return
        if self._words is not None and (self._seen != self._words or not self._tail.rstrip().endswith(b"data: [DONE]")):
            self._tally.truncated += 1
            self._tally.problems.add(f"a stream of {self._seen} content events instead of {self._words}, or without [DONE]")
        self._tally.done += 1
        now = time.perf_counter()
        self._tally.latency_s.append(now - self._begun_s)
        if now < self._until_s:
            self._ask()
        else:
            self._end()

    def _problem(self, what: str) -> None:
        if not self.finished.done():
            self._tally.errors += 1
            self._tally.problems.add(what)
            self._end()

    def _end(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._problem(f"connection ended inside an answer ({exc})")


async def run(
    port: int, connections: int, seconds: float, *, words: int | None = None, key: str = "bench", flood: bool = False, pause_s: float = 0.0
) -> Tally:
    """`connections` at once for `seconds`; `words`: streams of so many content events, paced unless `flood`. `pause_s` between two
    connects, so that paced streams don't all tick together."""
    tally = Tally()
    requests = request_bytes(port, words is not None, key, flood)
    until_s = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for _ in range(connections):
        try:
            _, client = await loop.create_connection(lambda: Client(requests, tally, words, until_s), "127.0.0.1", port)
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
