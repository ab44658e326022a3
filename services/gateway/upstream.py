"""Our own keep-alive HTTP/1.1 client: one asyncio.Protocol per connection, a last-in-first-out pool per engine.

Every new connection asks for the address of the name anew: a container that was made again has another one.

Layers: `Connection` owns the socket and hands every read to its `Receiver`; `Exchange` is the receiver that parses the answer and lets
a coroutine read it, with back-pressure; `Upstream` is one engine's address, token and idle connections.
TCP_NODELAY is set by asyncio and uvloop on every TCP socket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

from services.gateway.answer import AnswerParser, BadAnswer, Head

HIGH_WATER_BYTES = 256 * 1024
IDLE_S = 4.0  # uvicorn, under vLLM, closes an idle connection after 5 s: not worth the race
STALE_S = 0.5  # an idle connection that was closed meanwhile shows it as soon as it is written to
MAX_IDLE = 256
MAX_FETCH_BYTES = 64 * 1024 * 1024  # /tokenize names every token of a prompt


class UpstreamError(Exception):
    """The exchange failed on the way: nothing that the engine said."""


class ConnectFailed(UpstreamError):
    """No connection. `refused`: the address answered that nobody listens there. `nameless`: no address has this name (a container that
    is stopped, or not made yet)."""

    def __init__(self, message: str, refused: bool = False, nameless: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.nameless = nameless


class ConnectionCut(UpstreamError):
    """The connection ended inside the exchange. `unanswered`: before the first byte of the answer."""

    def __init__(self, message: str, unanswered: bool) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class GivenUp(UpstreamError):
    """We ended it before the first byte of the answer: the engine's worker has fallen silent, and another can answer."""


class BrokenAnswer(UpstreamError):
    """The answer is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an engine listens. `prefix` stands before every path (empty, or "/some/path")."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


def parse_origin(url: str) -> Origin:
    """The origin of `http(s)://host[:port][/prefix]`; a final /v1 is ours to add and is cut off.

    Raises ValueError with a sentence, which shows nothing of an URL that may hold a secret (a password, a key in its query).
    """
    if "@" in url:
        raise ValueError("the URL holds a user or password (something before an @), which is not taken; write it like http://127.0.0.1:9001")
    if "?" in url or "#" in url:
        raise ValueError("the URL holds more than scheme, host, port and path; write it like http://127.0.0.1:9001")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # also of a broken [IPv6] host
        port = 0
    if port == 0:
        raise ValueError(f"{url!r} has no usable port or host; a port is a number from 1 to 65535: write it like http://127.0.0.1:9001")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http(s) URL; write it like http://127.0.0.1:9001")
    if not url.isascii() or any(c <= " " for c in url):
        raise ValueError(f"{url!r} holds more than scheme, host, port and path; write it like http://127.0.0.1:9001")
    tls = parts.scheme == "https"
    return Origin(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/").removesuffix("/v1"))


class Receiver(Protocol):
    """Who gets the bytes of a connection while an exchange is under way."""

    def received(self, data: bytes) -> None: ...
    def lost(self, error: Exception | None) -> None: ...


class Waiting(Protocol):
    """Who waits for the first byte of an answer."""

    def give_up(self) -> None: ...


class Connection(asyncio.Protocol):
    """One socket to an engine. Idle while `receiver` is None; bytes or an end that come then make it useless."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.receiver: Receiver | None = None
        self.idle_since = 0.0
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from asyncio's classes

    def data_received(self, data: bytes) -> None:
        if self.receiver is None:
            self.abort()
        else:
            self.receiver.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self.receiver is not None:
            self.receiver.lost(exc)

    def abort(self) -> None:
        """Ends it at once: the engine sees its client leave and frees the sequence."""
        self.usable = False
        self.receiver = None
        if self.transport is not None:
            self.transport.abort()


class Exchange:
    """One request and its answer on one connection. Always `close()` it: that aborts what is unfinished and keeps what is reusable."""

    def __init__(self, upstream: Upstream, connection: Connection, request: bytes) -> None:
        self._upstream = upstream
        self._connection = connection
        self._parser = AnswerParser()
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        connection.receiver = self
        assert connection.transport is not None
        connection.transport.write(request)

    # Receiver

    def received(self, data: bytes) -> None:
        try:
            body = self._parser.feed(data)
        except BadAnswer as error:
            self._fail(BrokenAnswer(str(error)))
            self._connection.abort()
            return
        if body:
            self._pieces.append(body)
            self._buffered += len(body)
            if self._buffered > HIGH_WATER_BYTES and not self._paused and self._connection.transport is not None:
                self._paused = True
                self._connection.transport.pause_reading()
        self._wake()

    def lost(self, error: Exception | None) -> None:
        if self._parser.end():
            self._wake()
        else:
            how = f" ({error})" if error else ""
            self._fail(ConnectionCut(f"the engine closed the connection before its answer was whole{how}", not self._parser.started))

    def give_up(self) -> None:
        """Ends it, unless its answer has begun; whoever waits for it gets GivenUp."""
        if not self._parser.started:
            self._fail(GivenUp("the engine's worker fell silent before the answer began"))
            self._connection.abort()

    def _fail(self, error: UpstreamError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # the coroutine's side

    async def head(self) -> Head:
        """Waits for status and headers. Raises UpstreamError."""
        while self._parser.head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._parser.head

    async def read(self) -> bytes:
        """The body bytes that have come, b"" at the end of the answer. Raises UpstreamError once all that came before it is read."""
        while not self._pieces:
            if self._parser.done:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._paused and self._connection.transport is not None:
            self._paused = False
            self._connection.transport.resume_reading()
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body. Raises BrokenAnswer when it is longer than `limit_bytes`."""
        parts, size = [], 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > limit_bytes:
                raise BrokenAnswer(f"the engine's answer is longer than {limit_bytes} bytes")
        return b"".join(parts)

    def close(self) -> None:
        """Gives the connection back when the answer was read to its end, else aborts it. May be called twice."""
        connection = self._connection
        if connection.receiver is not self:
            return
        connection.receiver = None
        if self._parser.reusable and not self._pieces and connection.usable:
            self._upstream.give_back(connection)
        else:
            connection.abort()


class Upstream:
    """One engine: where it is, the token it wants, and the connections that are open to it."""

    def __init__(self, origin: Origin, token: str | None = None) -> None:
        self.origin = origin
        self.connects = 0  # connections that were made: each may have met another engine than the last
        self._idle: list[Connection] = []
        self.unanswered: set[Waiting] = set()
        self._tls = ssl.create_default_context() if origin.tls else None
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self._fixed = f"host: {host}:{origin.port}\r\n{authorization}accept-encoding: identity\r\n"
        self._posts: dict[str, bytes] = {}
        self._retired = False

    def request(self, method: str, path: str, body: bytes = b"", request_id: str | None = None) -> bytes:
        """The bytes of a request. `path` and `request_id` must be ours, never a client's."""
        extra = f"x-request-id: {request_id}\r\n" if request_id else ""
        if body or method == "POST":
            extra += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{method} {self.origin.prefix}{path} HTTP/1.1\r\n{self._fixed}{extra}\r\n".encode("latin1") + body

    def post(self, path: str, body: bytes, request_id: str) -> bytes:
        """The same for POST with a body; what is the same for each is made once. `path` must be one of our few."""
        fixed = self._posts.get(path)
        if fixed is None:
            head = f"POST {self.origin.prefix}{path} HTTP/1.1\r\n{self._fixed}content-type: application/json\r\n"
            fixed = self._posts[path] = head.encode("latin1")
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (fixed, request_id.encode(), len(body), body)

    async def ask(self, request: bytes, connect_s: float) -> Exchange:
        """Sends `request` and waits for the head of the answer.

        1. On the youngest idle connection; when that dies unanswered within STALE_S it was stale, so
        2. on a new connection, to be had within `connect_s`. (Later it is the engine that died, with the request in its hands: its port
           may be open again before it can answer, and another backend may be free.)
        Raises UpstreamError. A cancelled caller leaves an aborted connection.
        """
        connection = self.take_idle()
        if connection is not None:
            asked_s = time.monotonic()
            try:
                return await self._exchange(connection, request)
            except ConnectionCut as cut:
                if not cut.unanswered or time.monotonic() - asked_s > STALE_S:
                    raise
        return await self._exchange(await self.connect(connect_s), request)

    async def fetch(
        self, method: str, path: str, body: bytes = b"", *, timeout_s: float, request_id: str | None = None
    ) -> tuple[int, bytes]:
        """A whole small exchange: status and body. Raises UpstreamError or TimeoutError."""
        async with asyncio.timeout(timeout_s):
            exchange = await self.ask(self.request(method, path, body, request_id), timeout_s)
            try:
                head = await exchange.head()
                return head.status, await exchange.read_all(MAX_FETCH_BYTES)
            finally:
                exchange.close()

    async def _exchange(self, connection: Connection, request: bytes) -> Exchange:
        exchange = Exchange(self, connection, request)
        self.unanswered.add(exchange)
        try:
            await exchange.head()
        except BaseException:  # whatever ended it, a cancellation too, nobody else would close the connection; it is raised again
            exchange.close()
            raise
        finally:
            self.unanswered.discard(exchange)
        return exchange

    def give_up_unanswered(self) -> None:
        """Ends every exchange that still waits for the first byte of its answer, and the idle connections: they lead nowhere."""
        for exchange in list(self.unanswered):
            exchange.give_up()
        self.close()

    async def connect(self, connect_s: float) -> Connection:
        """A new connection. Raises ConnectFailed; ConnectionCut when it was lost before anybody could use it: an engine that dies ends the
        connections it has before its port, so one more gets through, and nobody would be told of its end."""
        origin = self.origin
        self.connects += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(Connection, origin.host, origin.port, ssl=self._tls)
        except TimeoutError:
            raise ConnectFailed(f"no connection to {origin.url} within {connect_s:g} s") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that no name can be
            refused = isinstance(error, ConnectionRefusedError) or "refused" in str(error).lower()
            nameless = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            why = getattr(error, "strerror", None) or error
            raise ConnectFailed(f"no connection to {origin.url}: {why}", refused, nameless) from None
        if not connection.usable:
            raise ConnectionCut("the engine closed the connection as soon as it was made", True)
        return connection

    def take_idle(self) -> Connection | None:
        """The youngest idle connection, None when there is none that is fit."""
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        if len(self._idle) < MAX_IDLE and not self._retired:
            self._idle.append(connection)
        else:
            connection.abort()

    def leads_where(self, other: Upstream) -> bool:
        """Whether both go to the same address with the same token."""
        return (self.origin, self._fixed) == (other.origin, other._fixed)

    def retire(self) -> None:
        """No connection is kept any more: the idle ones end now, the others with their requests."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Ends the idle connections."""
        while self._idle:
            self._idle.pop().abort()
