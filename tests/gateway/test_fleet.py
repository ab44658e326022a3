"""What the fleet believes about its backends, with workers that fall silent, lie or come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.gateway import fleet
from services.gateway.backends import Backend
from services.gateway.fleet import Fleet, parse_status
from services.gateway.scheduler import Lane
from services.gateway.upstream import Origin, Upstream
from services.wire.worker import WorkerState
from tests.fakes.answers import worker_status
from tests.fakes.http import Reply, Request, Server

POLL_S = 0.02


class Worker:
    """A worker that says what it is told to say, or nothing."""

    def __init__(self) -> None:
        self.state: str | None = "ready"
        self.placement = "p"

    async def handle(self, request: Request, reply: Reply) -> None:
        if self.state is None:
            await asyncio.sleep(60)
        await reply.send(200, worker_status(self.placement, "m", "sim-0", str(self.state)))


@asynccontextmanager
async def watching(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Worker, Backend, Fleet, list[bool], asyncio.Server]]:
    monkeypatch.setattr(fleet, "WORKER_TIMEOUT_S", 0.1)
    worker, changes = Worker(), []
    server = Server(worker.handle, lambda request, reply: None)
    listening = await server.listen("127.0.0.1", 0)
    at = Upstream(Origin("127.0.0.1", listening.sockets[0].getsockname()[1]))
    backend = Backend("p", "m", "text", Upstream(Origin("127.0.0.1", 1)), Lane("p", 1), worker=at)
    watch = Fleet([backend], lambda _, ready: changes.append(ready), POLL_S)
    watch.start()
    try:
        yield worker, backend, watch, changes, listening
    finally:
        await watch.stop()
        listening.close()
        for writer in list(server.open):
            writer.transport.abort()
        await asyncio.sleep(0)


async def becomes(backend: Backend, state: WorkerState) -> None:
    async with asyncio.timeout(2):
        while backend.state is not state:
            await asyncio.sleep(0.005)


def test_the_sum_behind_5_s() -> None:
    """Last good answer, 1 s pause, a time-out, 1 s pause, a time-out."""
    assert 1.0 + fleet.WORKER_TIMEOUT_S + 1.0 * (fleet.WORKER_STRIKES - 1) + fleet.WORKER_TIMEOUT_S <= 5


async def test_a_silent_worker_is_unreachable_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(monkeypatch) as (worker, backend, _, changes, _):
        await becomes(backend, WorkerState.READY)
        worker.state = None
        await becomes(backend, WorkerState.UNREACHABLE)
        assert backend.reason == "its worker does not answer"
        worker.state = "ready"
        await becomes(backend, WorkerState.READY)
        assert backend.reason is None
        assert changes == [True, False, True]


async def test_a_silent_worker_whose_engine_talks_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(monkeypatch) as (worker, backend, _, changes, _):
        await becomes(backend, WorkerState.READY)
        worker.state = None
        for _ in range(50):
            backend.heard_s = asyncio.get_running_loop().time()
            await asyncio.sleep(0.01)
        assert backend.strikes >= 2
        assert changes == [True]


async def test_a_silent_worker_that_loads_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(monkeypatch) as (worker, backend, _, _, _):
        worker.state = "loading"
        await becomes(backend, WorkerState.LOADING)
        worker.state = None
        await asyncio.sleep(0.5)
        assert backend.state is WorkerState.LOADING


async def test_a_worker_that_is_gone_and_one_that_never_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(monkeypatch) as (_, backend, _, _, listening):
        await becomes(backend, WorkerState.READY)
        listening.close()
        backend.worker = Upstream(Origin("127.0.0.1", 1))
        await becomes(backend, WorkerState.UNREACHABLE)
        assert "nobody listens" in str(backend.reason)
        backend.seen = False
        await becomes(backend, WorkerState.STARTING)


async def test_ready_is_old_news_after_a_refused_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "HOLD_DOWN_S", 0.3)
    async with watching(monkeypatch) as (_, backend, watch, changes, _):
        await becomes(backend, WorkerState.READY)
        watch.found_down(backend, "its port refuses connections")
        await asyncio.sleep(0.15)
        assert backend.state is WorkerState.UNREACHABLE, "the worker still says ready"
        await becomes(backend, WorkerState.READY)
        assert changes == [True, False, True]


async def test_the_worker_of_another_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(monkeypatch) as (worker, backend, _, _, _):
        worker.placement = "q"
        await becomes(backend, WorkerState.UNREACHABLE)


async def test_a_bug_in_a_watch_does_not_end_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(monkeypatch) as (worker, backend, _, _, _):
        await becomes(backend, WorkerState.READY)
        monkeypatch.setattr(fleet, "parse_status", lambda body: 1 / 0)
        await asyncio.sleep(0.1)
        monkeypatch.setattr(fleet, "parse_status", parse_status)
        worker.state = "restarting"
        await becomes(backend, WorkerState.RESTARTING)
    assert "watch_failed" in caplog.text


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"state": "ready"}', b'{"state": "flying", "placement_id": "p"}', b"null",
    b'{"state": [], "placement_id": 5}'])
def test_what_is_no_status(body: bytes) -> None:
    assert parse_status(body) is None
