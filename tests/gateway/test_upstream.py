"""Our HTTP client against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.gateway.upstream import BrokenAnswer, ConnectFailed, ConnectionCut, Origin, Upstream, parse_origin
from tests.fakes.http import Reply, Request, Server

Handler = Callable[[Request, Reply], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, token: str | None = None) -> AsyncIterator[tuple[Upstream, list[Request], Server]]:
    seen: list[Request] = []

    async def remember(request: Request, reply: Reply) -> None:
        seen.append(request)
        await handler(request, reply)

    server = Server(remember, lambda request, reply: None)
    listening = await server.listen("127.0.0.1", 0)
    upstream = Upstream(Origin("127.0.0.1", listening.sockets[0].getsockname()[1]), token)
    try:
        yield upstream, seen, server
    finally:
        upstream.close()
        listening.close()
        for writer in list(server.open):
            writer.transport.abort()
        await asyncio.sleep(0)


async def hello(request: Request, reply: Reply) -> None:
    await reply.send(200, b"hello")


async def test_headers_and_reuse() -> None:
    async with serving(hello, token="secret") as (upstream, seen, server):
        for _ in range(3):
            assert await upstream.fetch("POST", "/x", b"body", timeout_s=1) == (200, b"hello")
        assert len(server.open) == 1
        assert seen[0].headers == {"host": f"127.0.0.1:{upstream.origin.port}", "authorization": "Bearer secret", "content-length": "4",
                                   "accept-encoding": "identity", "content-type": "application/json"}
        assert seen[0].body == b"body"


async def test_two_at_once_take_two_connections_and_the_youngest_is_next() -> None:
    async with serving(hello) as (upstream, _, server):
        await asyncio.gather(*(upstream.fetch("GET", "/", timeout_s=1) for _ in range(2)))
        await upstream.fetch("GET", "/", timeout_s=1)
        assert len(server.open) == 2


async def test_a_stale_connection_is_replaced() -> None:
    """The server closes what is idle; the request that meets it goes to a new connection."""
    async with serving(hello) as (upstream, seen, server):
        await upstream.fetch("GET", "/", timeout_s=1)
        idle = upstream._idle[0]
        idle.connection_lost = lambda exc: None  # type: ignore[method-assign]  # the end is not noticed in time
        for writer in list(server.open):
            writer.transport.abort()
        await asyncio.sleep(0.05)
        request = upstream.request("GET", "/")
        exchange = asyncio.create_task(upstream.ask(request, 1))
        await asyncio.sleep(0)
        if idle.receiver is not None:
            idle.receiver.lost(None)
        (await exchange).close()
        assert len(seen) == 2


async def test_refused_and_not_there() -> None:
    async with serving(hello) as (upstream, _, _):
        pass
    with pytest.raises(ConnectFailed) as refused:
        await upstream.fetch("GET", "/", timeout_s=1)
    assert refused.value.refused


async def test_a_connection_that_is_lost_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that dies takes one more connection and drops it. Its end comes before anybody listens to it, so it must be looked for:
    else the request waits for its first byte until the deadline, 30 s, whatever other backend is free."""
    loop, listener = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    connect = loop.create_connection

    async def busy_loop(*args: Any, **more: Any) -> Any:
        made = await connect(*args, **more)
        accepted, _ = await loop.sock_accept(listener)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        await asyncio.sleep(0.02)
        return made

    monkeypatch.setattr(loop, "create_connection", busy_loop)
    upstream = Upstream(Origin("127.0.0.1", listener.getsockname()[1]))
    try:
        with pytest.raises(ConnectionCut) as cut:
            async with asyncio.timeout(1):
                await upstream.ask(upstream.request("POST", "/x", b"{}"), 1)
        assert cut.value.unanswered
    finally:
        listener.close()


async def test_an_engine_that_dies_over_a_request_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kept connection too: it was not stale, the engine worked on the request."""
    monkeypatch.setattr("services.gateway.upstream.STALE_S", 0.05)

    async def dies(request: Request, reply: Reply) -> None:
        if len(seen) == 2:
            await asyncio.sleep(0.1)
            reply.reset()
        await reply.send(200, b"hello")

    async with serving(dies) as (upstream, seen, _):
        await upstream.fetch("GET", "/", timeout_s=1)
        with pytest.raises(ConnectionCut):
            await upstream.fetch("GET", "/", timeout_s=1)
        assert len(seen) == 2


async def test_cut_before_and_inside_the_answer() -> None:
    async def before(request: Request, reply: Reply) -> None:
        reply.close()

    async def inside(request: Request, reply: Reply) -> None:
        await reply.start()
        await reply.chunk(b"abc")
        reply.reset()

    async with serving(before) as (upstream, _, _):
        with pytest.raises(ConnectionCut) as cut:
            await upstream.fetch("GET", "/", timeout_s=1)
        assert cut.value.unanswered
    async with serving(inside) as (upstream, _, _):
        exchange = await upstream.ask(upstream.request("GET", "/"), 1)
        assert await exchange.read() == b"abc", "what came before the cut is read first"
        with pytest.raises(ConnectionCut) as cut:
            await exchange.read()
        assert not cut.value.unanswered
        exchange.close()


async def test_garbage() -> None:
    async def garbage(request: Request, reply: Reply) -> None:
        reply.writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with serving(garbage) as (upstream, _, _):
        with pytest.raises(BrokenAnswer):
            await upstream.fetch("GET", "/", timeout_s=1)


async def test_closing_an_unfinished_exchange_ends_the_connection() -> None:
    gone = asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        await reply.start()
        try:
            await asyncio.sleep(30)
        finally:
            gone.set()

    async with serving(slow) as (upstream, _, _):
        exchange = await upstream.ask(upstream.request("GET", "/"), 1)
        exchange.close()
        exchange.close()
        await asyncio.wait_for(gone.wait(), 1)
        assert upstream._idle == []


async def test_a_cancelled_request_ends_the_connection() -> None:
    gone = asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            gone.set()

    async with serving(slow) as (upstream, _, _):
        with pytest.raises(TimeoutError):
            await upstream.fetch("GET", "/", timeout_s=0.1)
        await asyncio.wait_for(gone.wait(), 1)


async def test_back_pressure() -> None:
    """A reader that waits holds the sender: no more than a few hundred kB and the socket's own buffers are on the way."""
    sent = 0

    async def flood(request: Request, reply: Reply) -> None:
        nonlocal sent
        await reply.start()
        for _ in range(1000):
            await reply.chunk(b"x" * 65536)
            sent += 65536
        await reply.end()

    async with serving(flood) as (upstream, _, _):
        exchange = await upstream.ask(upstream.request("GET", "/"), 1)
        await asyncio.sleep(0.3)
        assert sent < 20_000_000
        assert exchange._buffered < 1_000_000
        assert len(await exchange.read_all(10**9)) == 65_536_000
        exchange.close()


@pytest.mark.parametrize(("url", "origin"), [
    ("http://127.0.0.1:9001", Origin("127.0.0.1", 9001)), ("http://h/", Origin("h", 80)), ("https://h", Origin("h", 443, True)),
    ("http://h:1/v1", Origin("h", 1)), ("http://h:1/v1/", Origin("h", 1)), ("http://h:1/a/v1", Origin("h", 1, prefix="/a")),
    ("http://[::1]:5", Origin("::1", 5)),
])
def test_origins(url: str, origin: Origin) -> None:
    assert parse_origin(url) == origin
