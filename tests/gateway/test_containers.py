"""Workers in containers: names that are not there yet, addresses that change, a paused container that accepts and never answers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.gateway.backends import Backend
from services.gateway.fleet import Fleet
from services.gateway.scheduler import Lane
from services.gateway.settings import Deadlines
from services.gateway.upstream import ConnectFailed, GivenUp, Origin, Upstream
from services.sizing.planfile import dump_plan
from services.sizing.types import Engine, Plan, TextWorkload
from services.wire.worker import WorkerState
from tests.fakes import process
from tests.fakes.answers import worker_status
from tests.fakes.http import Reply, Request, Server
from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, HOST, PROJECT, GatewayProcess, Rig, chat, placement, simulated_cpu_card, start_gateway, until

pytestmark = pytest.mark.slow

SMOL = "smollm2-135m-instruct"
Names = dict[str, str]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A name service of our own, as a container engine's: name -> address; what is not in it has no address."""
    known: Names = {}
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def look_up(host: Any, port: Any, **more: Any) -> Any:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await real(known[host], port, **more)

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    return known


@asynccontextmanager
async def container(address: str, port: int = 0) -> AsyncIterator[int]:
    """A worker and engine in one, at an address of its own, that answers with that address."""

    async def handle(request: Request, reply: Reply) -> None:
        status = worker_status("p", "m", "sim-0", "ready")
        await reply.send(200, status if request.path == "/status" else {"address": address})

    server = Server(handle, lambda request, reply: None)
    listening = await server.listen(address, port)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for writer in list(server.open):
            writer.transport.abort()
        await asyncio.sleep(0.01)


async def test_every_new_connection_asks_for_the_address(names: Names) -> None:
    async with container("127.0.0.2") as port:
        upstream = Upstream(Origin("worker-0", port))
        with pytest.raises(ConnectFailed) as absent:
            await upstream.fetch("GET", "/", timeout_s=1)
        assert absent.value.nameless
        assert not absent.value.refused
        names["worker-0"] = "127.0.0.2"
        assert json.loads((await upstream.fetch("GET", "/", timeout_s=1))[1]) == {"address": "127.0.0.2"}
        async with container("127.0.0.3", port):
            names["worker-0"] = "127.0.0.3"
            assert "127.0.0.2" in str(await upstream.fetch("GET", "/", timeout_s=1)), "the open connection is kept"
            upstream.close()
            assert "127.0.0.3" in str(await upstream.fetch("GET", "/", timeout_s=1))
    upstream.close()


async def test_a_container_that_is_made_late_again_elsewhere_and_removed(names: Names) -> None:
    """The whole life of a compose service as its gateway sees it, without the gateway being touched."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    changes: list[bool] = []
    backend = Backend("p", "m", "text", Upstream(Origin("worker-0", 1)), Lane("p", 1), worker=Upstream(Origin("worker-0", port)))
    fleet = Fleet([backend], lambda _, ready: changes.append(ready), 0.02)

    async def becomes(state: WorkerState) -> str | None:
        async with asyncio.timeout(3):
            while backend.state is not state:
                await asyncio.sleep(0.005)
        return backend.reason

    fleet.start()
    try:
        await asyncio.sleep(0.1)
        assert (backend.state, backend.reason) == (WorkerState.STARTING, "its worker is not up yet")
        async with container("127.0.0.2", port):
            names["worker-0"] = "127.0.0.2"
            await becomes(WorkerState.READY)
        assert "nobody listens" in str(await becomes(WorkerState.UNREACHABLE))  # stopped: its process is gone first
        async with container("127.0.0.3", port):
            names["worker-0"] = "127.0.0.3"
            await becomes(WorkerState.READY)
            del names["worker-0"]
        assert await becomes(WorkerState.UNREACHABLE) == "its worker is gone: nothing is named worker-0 any more"
        assert changes == [True, False, True, False]
    finally:
        await fleet.stop()


async def test_names_that_hang_do_not_hold_up_those_that_are_there() -> None:
    """Each look-up of an absent name can hold a thread for seconds; the gateway makes enough of them, and look-ups short."""
    code = ("import os, sys; sys.argv = ['gateway', '--backend', 'm=http://127.0.0.1:1', '--host', 'no.such.host.invalid']\n"
            "from services.gateway.__main__ import main\n"
            "try: main()\nexcept SystemExit: pass\nprint(os.environ['UV_THREADPOOL_SIZE'], os.environ['RES_OPTIONS'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "32 timeout:1 attempts:1", done.stderr


def test_a_connection_is_not_waited_for_long() -> None:
    """One lost packet is forgiven (it is sent again after 1 s), no more."""
    assert 1.0 < Deadlines().connect_s < 2.0


async def test_only_what_has_no_answer_yet_is_given_up() -> None:
    async def handle(request: Request, reply: Reply) -> None:
        if request.path == "/begun":
            await reply.start()
            await reply.chunk(b"abc")
        await asyncio.sleep(60)

    server = Server(handle, lambda request, reply: None)
    listening = await server.listen("127.0.0.1", 0)
    upstream = Upstream(Origin("127.0.0.1", listening.sockets[0].getsockname()[1]))
    begun = await upstream.ask(upstream.request("GET", "/begun"), 1)
    waiting = asyncio.create_task(upstream.ask(upstream.request("GET", "/hangs"), 1))
    await asyncio.sleep(0.05)
    upstream.give_up_unanswered()
    with pytest.raises(GivenUp):
        await waiting
    assert await begun.read() == b"abc"
    begun.close()
    listening.close()
    for writer in list(server.open):
        writer.transport.abort()
    await asyncio.sleep(0.01)


@dataclass
class Twins:
    """A gateway over two placements of one model, each on its own card, with its worker and engine in one process."""

    gateway: GatewayProcess
    engines: dict[str, FakeEngineProcess]


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Twins]:
    card = simulated_cpu_card(8 * 2**30)
    places = tuple(placement(ident, card, SMOL, TextWorkload(512, 2), Engine.VLLM) for ident in ("one", "two"))
    (tmp_path / "plan.yaml").write_text(dump_plan(Plan(1, HOST, (card,), places)))
    engines = {p.id: process.start(SMOL, placement=p.id, card=card.id) for p in places}
    endpoints = [{"placement_id": name, "worker_url": engine.url, "engine_url": engine.url} for name, engine in engines.items()]
    (tmp_path / "endpoints.json").write_text(json.dumps({"endpoints": endpoints}))
    gateway = start_gateway(tmp_path, "--plan", str(tmp_path / "plan.yaml"), "--endpoints", str(tmp_path / "endpoints.json"))
    gateway.wait_ready()
    yield Twins(gateway, engines)
    gateway.stop()
    for engine in engines.values():
        engine.process.send_signal(signal.SIGCONT)
        engine.stop()


def at_once(count: int, call: Callable[[], httpx.Response]) -> list[httpx.Response]:
    got: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: got.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_a_paused_container(twins: Twins) -> None:
    """It takes connections and never answers, as after `docker pause`. Requests that it holds are answered by the other one within
    seconds, not after the 30 s that a first byte may take; new ones are not sent to it; after `unpause` it is used again."""
    twins.engines["one"].process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    answers = at_once(4, lambda: twins.gateway.post(CHAT, chat(SMOL, max_tokens=2)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert time.monotonic() - begun < 12  # 3 s on an idle machine
    assert {answer.headers["x-rigserve-backend"] for answer in answers} == {"two"}
    assert "2" in {answer.headers["x-rigserve-attempts"] for answer in answers}
    until(lambda: twins.gateway.backends()["one"]["state"] == "unreachable", "unreachable", 10)
    answer = twins.gateway.post(CHAT, chat(SMOL, max_tokens=2))
    assert (answer.status_code, answer.headers["x-rigserve-attempts"]) == (200, "1")
    twins.engines["one"].process.send_signal(signal.SIGCONT)
    twins.gateway.wait_ready("one")


def test_a_draining_worker_gets_no_new_requests(twins: Twins) -> None:
    """What runs there ends there; its twin takes the rest."""
    twins.engines["one"].set(itl_s=0.05)
    twins.engines["two"].set(itl_s=0.05)
    got: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: got.append(twins.gateway.post(CHAT, chat(SMOL, max_tokens=30)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: all(engine.state()["running"] == 1 for engine in twins.engines.values()), "one on each")
    twins.engines["one"].set(worker_state="draining")
    until(lambda: twins.gateway.backends()["one"]["state"] == "draining", "draining", 2)
    assert twins.gateway.post(CHAT, chat(SMOL, max_tokens=2)).headers["x-rigserve-backend"] == "two"
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in got] == [200, 200]
    assert {answer.headers["x-rigserve-backend"] for answer in got} == {"one", "two"}
    assert {answer.headers["x-rigserve-attempts"] for answer in got} == {"1"}


def test_a_draining_worker_that_was_the_only_one(rig: Rig) -> None:
    rig.engines["llm-vllm"].set(itl_s=0.03)
    got: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: got.append(rig.gateway.post(CHAT, chat(SMOL, max_tokens=20))))
    thread.start()
    until(lambda: rig.engines["llm-vllm"].state()["running"] == 1, "it runs")
    rig.engines["llm-vllm"].set(worker_state="draining")
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == "draining", "draining", 2)
    refused = rig.gateway.post(CHAT, chat(SMOL))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_available_worker")
    assert int(refused.headers["retry-after"]) >= 1
    thread.join()
    assert got[0].status_code == 200
    rig.engines["llm-vllm"].set(worker_state="loading")
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == "loading", "loading", 2)
    refused = rig.gateway.post(CHAT, chat(SMOL))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "backend_starting")
    assert int(refused.headers["retry-after"]) >= 1
