"""The HTTP edge: what a client's connection may do before anything of it is a request. Between uvicorn's protocol and the short way.

uvicorn bounds neither the size of a head nor the time it takes, and keeps a connection for ever whose client drips bytes after its answer.
Here: 431 for a head that is too large, a deadline for each head and for the rest of a body that nobody reads any more, 503 for connections
beyond the limit, and a plain 400 in OpenAI's shape for what is no HTTP. A request of the short way passes none of this but `_due_s = 0`.
"""

from __future__ import annotations

import asyncio
import http
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.wire.errors import ApiError, HeadersTooLarge, InvalidValue, TooManyConnections

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
LINGER_S = 5.0  # for a body whose answer was sent early: cut at once, the client would see a reset instead of the answer
DEAF_S = 2.0
MOST_TURNED_AWAY = 256
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
NOT_HTTP = InvalidValue("The request is not valid HTTP/1.1.")


def no_count(code: str) -> None:
    """Counts nothing."""


@dataclass(slots=True, eq=False)
class Edge:
    """What all connections of one gateway share. `count` is told the code of everything that is refused or cut here."""

    connections: int = 4096
    head_s: float = 10.0
    count: Callable[[str], None] = no_count
    turned_away: set[TurnedAway] = field(default_factory=set)


class EdgeProtocol(HttpToolsProtocol):
    """One client connection.

    `_inside`: the parser stands inside a request. `_in_head`: inside its head, of which `_head_bytes` have come. `_due_s`: when the
    connection is cut if nothing better comes of it; 0: never.
    """

    edge: ClassVar[Edge] = Edge()

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._inside = self._in_head = False
        self._head_bytes = self._begins = self._trailers = 0
        self._due_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._refusal: ApiError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """1. Beyond the limit: 503 to a few, the rest is cut at once. 2. A head must come in time."""
        edge = self.edge
        if len(self.connections) >= edge.connections:  # 1
            edge.count(TooManyConnections.code)
            if len(edge.turned_away) >= MOST_TURNED_AWAY:
                transport.abort()
            else:
                transport.set_protocol(TurnedAway(edge, transport, self.loop))
            return
        super().connection_made(transport)
        self._due_in(edge.head_s)  # 2

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.transport is not None:  # else it was cut before it began
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """1. To the parser; no protocol is ever changed here, so a wish for it is hidden. 2. More head than may be: 431. 3. Something of a
        head came, or nothing but line ends: uvicorn has stopped its keep-alive clock, so ours runs."""
        between, was_in_head, self._begins = not self._inside, self._in_head, 0
        if between:
            data = _without_upgrade(data)
        super().data_received(data)  # 1
        if self._in_head:
            # Where a head begins behind something else in one read is not known, so of that read nothing is counted.
            if (was_in_head and self._begins == 0) or (between and self._begins == 1):
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:  # 2
                self._refuse(HeadersTooLarge(f"The head of the request is larger than {MAX_HEAD_BYTES} bytes."))
        if not self._due_s and (self._in_head or not (self._inside or self._answering())):  # 3
            self._due_in(self.edge.head_s)

    def _answering(self) -> bool:
        """Whether an answer is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        self._inside = self._in_head = True
        self._head_bytes = self._trailers = 0
        self._begins += 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers after a chunked body come here too; nothing here reads them, and they must not pass for headers."""
        if not self._in_head:
            self._trailers += 1
            if self._trailers > MAX_HEADERS:
                self._stop_parsing(HeadersTooLarge(f"The request has more than {MAX_HEADERS} trailers."))
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._stop_parsing(HeadersTooLarge(f"The request has more than {MAX_HEADERS} headers."))

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._stop_parsing(HeadersTooLarge(f"The head of the request is {size} bytes; at most {MAX_HEAD_BYTES} are read."))
        self._in_head, self._due_s = False, 0.0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._inside = False
        super().on_message_complete()
        if not self._answering() and not self.transport.is_closing():  # the rest of a body that was answered early
            self._due_s = 0.0
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._inside and not self._in_head and not self.pipeline:
            self._due_in(LINGER_S)

    # --- refusing ---

    def _stop_parsing(self, error: ApiError) -> None:
        """Out of the parser, by way of its own error (`send_400_response`)."""
        self._refusal = error
        raise ValueError(error.message)

    def send_400_response(self, msg: str) -> None:
        refusal, self._refusal = self._refusal or NOT_HTTP, None
        self._refuse(refusal)

    def _refuse(self, error: ApiError) -> None:
        """1. It is not in the body of the request that is to be answered now, and an answer is under way: that can't be interrupted, so the
        connection ends after it. 2. The error, and the end."""
        self.edge.count(error.code)
        own_body = self._inside and not self._in_head and not self.pipeline and not (self.cycle and self.cycle.response_started)
        self._in_head = False
        if self._answering() and not own_body:  # 1
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if self.cycle is not None:  # 2; the application has begun on it, perhaps: nothing more that it says goes out
            self.cycle.disconnected, self.cycle.waiting_for_100_continue = True, False
            self.cycle.message_event.set()
        say_last(self.transport, error)
        self.transport.set_protocol(Deaf(self.transport, self.loop, self.connection_lost))

    def _unsupported_upgrade_warning(self) -> None:
        """Something the parser takes for the end of HTTP on this connection (its head came in pieces): what comes next is no request."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    # --- time ---

    def _due_in(self, seconds: float) -> None:
        self._due_s = time.monotonic() + seconds
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """1. Nothing is due any more. 2. An answer is under way: the time begins when it has ended. 3. Too late."""
        self._alarm = None
        if not self._due_s or self.transport.is_closing():  # 1
            return
        if self._answering():  # 2
            self._due_in(self.edge.head_s)
            return
        self.edge.count("head_timeout" if self._in_head or not self._inside else "body_timeout")  # 3
        self.transport.abort()


class Deaf(asyncio.Protocol):
    """What follows a last answer: what the client still sends is read and forgotten for a while. Closed at once, the connection would be
    reset, and the client might lose the answer over it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, lost: Callable[[Exception | None], None]) -> None:
        self._transport, self._lost = transport, lost
        self._end = loop.call_later(DEAF_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._lost(exc)


class TurnedAway(asyncio.Protocol):
    """A connection beyond the limit: it gets its 503 when it asks something, and soon ends in any case."""

    def __init__(self, edge: Edge, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._edge, self._transport = edge, transport
        self._answered = False
        edge.turned_away.add(self)
        self._end = loop.call_later(DEAF_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._answered:
            self._answered = True
            error = TooManyConnections(f"More than {self._edge.connections} connections are open; try again later.", retry_after_s=1.0)
            say_last(self._transport, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._edge.turned_away.discard(self)


def say_last(transport: asyncio.Transport, error: ApiError) -> None:
    """The error, and the end of what is written to this client."""
    if not transport.is_closing():
        transport.write(closing_answer(error))
        transport.write_eof()


def closing_answer(error: ApiError) -> bytes:
    """The error as the last answer on a connection."""
    body = orjson.dumps(error.body())
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}", "content-type: application/json",
             f"content-length: {len(body)}", "connection: close", *(f"{name}: {value}" for name, value in error.headers().items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin1") + body


def _without_upgrade(data: bytes) -> bytes:
    """A head that asks for another protocol (h2c, as Java's client always does) is read as if it had not: RFC 9110, 7.8 lets a server
    ignore the wish, while the parser would take the request's body for the other protocol's first bytes."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0 or not _UPGRADE.search(data, 0, end):
        return data
    return _UPGRADE.sub(b"\r\nx-upgrade:", data[:end]) + data[end:]


def connection_limit(wanted: int, open_files: int) -> int:
    """How many clients can be served with so many file descriptors: each may need one more towards an engine; 128 are for all else.
    Worked number: 1024 descriptors are enough for (1024 - 128) / 2 = 448 clients."""
    return max(1, min(wanted, (open_files - 128) // 2))
