"""The smallest HTTP/1.1 server that can also misbehave: it owns its socket, so a test can cut, stall or reset it at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
           429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}


class Cut(Exception):
    """Raised by a handler that has ended the connection itself."""


@dataclass(slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Reply:
    """Writes one answer. `send` for a whole one; `start`, `chunk`, `end` for a streamed one."""

    writer: asyncio.StreamWriter
    started: bool = False
    chunks: int = 0
    extra_headers: dict[str, str] = field(default_factory=dict)

    def head(self, status: int, headers: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", *(f"{k}: {v}" for k, v in {**headers, **self.extra_headers}.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin1")

    async def send(self, status: int, body: Any, content_type: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.started = True
        self.writer.write(self.head(status, {"content-type": content_type, "content-length": str(len(data))}) + data)
        await self.writer.drain()

    async def start(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        self.started = True
        self.writer.write(self.head(200, {"content-type": content_type, "transfer-encoding": "chunked"}))
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.chunks += 1
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection with a TCP reset, as a killed process on another machine looks like."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise Cut

    def close(self) -> None:
        """Ends the connection at once but in order (FIN), wherever the answer was."""
        self.writer.close()
        raise Cut


Handler = Callable[[Request, Reply], Awaitable[None]]
Aborted = Callable[[Request, Reply], None]


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """One request, or None when the peer closed between two."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *rest = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in rest if line)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path.partition("?")[0], headers, body)


class Server:
    """Serves `handler` until closed. `aborted` is told when the peer left before the answer was whole."""

    def __init__(self, handler: Handler, aborted: Aborted) -> None:
        self.handler = handler
        self.aborted = aborted
        self.open: set[asyncio.StreamWriter] = set()

    async def listen(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self.connection, host, port, limit=64 * 1024 * 1024)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while request := await read_request(reader):
                if not await self.answer(reader, writer, request):
                    return
        except (ConnectionError, Cut, asyncio.IncompleteReadError):
            return
        finally:
            self.open.discard(writer)
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> bool:
        """True when the connection can take the next request. Watches for the peer leaving while the handler works."""
        reply = Reply(writer)
        work = asyncio.ensure_future(self.handler(request, reply))
        gone = asyncio.ensure_future(self.until_gone(reader))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await work
            self.aborted(request, reply)
            return False
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        try:
            work.result()
        except ConnectionError:
            self.aborted(request, reply)
            return False
        except Cut:
            return False
        return request.headers.get("connection", "").lower() != "close"

    @staticmethod
    async def until_gone(reader: asyncio.StreamReader) -> None:
        """Returns when the peer has closed. Looks at the buffer without taking bytes: they may be the next request."""
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.01)
