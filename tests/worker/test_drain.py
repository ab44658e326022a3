"""SIGTERM: requests that run may end, none is sent any more, and then nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest

from services.diffusion.metrics import Metrics
from services.sizing.types import Engine
from services.wire.worker import WorkerState
from services.worker import lifecycle
from services.worker.inflight import requests_in_flight
from services.worker.lifecycle import is_drained
from tests.worker.bench import Bench
from tests.worker.running import Workers, gone

pytestmark = pytest.mark.slow

LONG = {"model": "small-chat", "prompt": "Hello", "max_tokens": 20}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_LEAST_S", 0.2)


@pytest.mark.parametrize(("looks", "for_s", "limit_s", "drained"), [
    (5, 2.4, 30, False), (2, 2.5, 30, True), (1, 2.5, 30, False), (0, 29.9, 30, False), (0, 30, 30, True), (9, 0.9, 1, False),
    (0, 1, 1, True),
])
def test_when_it_may_be_stopped(looks: int, for_s: float, limit_s: float, drained: bool) -> None:
    assert is_drained(looks, for_s, limit_s) is drained


def test_requests_in_flight_of_each_engine() -> None:
    vllm = ('# HELP vllm:num_requests_running Number of requests in model execution batches.\n'
            'vllm:num_requests_running{engine="0",model_name="a } 7"} 2.0\nvllm:num_requests_running{engine="1",model_name="a"} 1.0\n'
            'vllm:num_requests_waiting{engine="0",model_name="a"} 1.0\nvllm:num_requests_waiting_by_reason{reason="capacity"} 9.0\n')
    assert requests_in_flight(Engine.VLLM, vllm) == 4
    assert requests_in_flight(Engine.LLAMACPP, "llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n") == 3
    ours = Metrics()
    assert requests_in_flight(Engine.DIFFUSERS, ours.text().decode()) == 0
    ours.queue_depth.set(2)
    assert requests_in_flight(Engine.DIFFUSERS, ours.text().decode()) == 2


@pytest.mark.parametrize("text", ["", "vllm:num_requests_running 1.0", "<html>", "\x00" * 10,
                                  "vllm:num_requests_running NaN\nvllm:num_requests_waiting 0",
                                  "vllm:num_requests_running .\nvllm:num_requests_waiting 0"])
def test_unknown_is_not_0(text: str) -> None:
    assert requests_in_flight(Engine.VLLM, text) is None


@pytest.mark.usefixtures("hurried")
async def test_a_request_that_runs_may_end(bench: Bench) -> None:
    driver = bench.start()
    await bench.until("ready")
    await bench.ask("/fake/settings", {"itl_s": 0.04})
    asked = asyncio.create_task(bench.ask("/v1/completions", LONG))  # 0.8 s
    await asyncio.sleep(0.1)
    driver.drain(20)
    status = driver.status()
    assert (status.state, status.reason) == (WorkerState.DRAINING,
                                             "stopping: requests that run may end within 20 s, new ones are not sent here")
    driver.restart()  # of no effect now
    answer = await asked
    assert (answer.status, answer.json()["usage"]["completion_tokens"]) == (200, 20)
    await asyncio.wait_for(bench.tasks[0], 10)
    assert "no request runs" in " ".join(bench.states)
    assert driver.status().engine_pid is None
    assert driver.status().restarts == 0


@pytest.mark.usefixtures("hurried")
async def test_the_limit_cuts_it_off(bench: Bench) -> None:
    driver = bench.start()
    await bench.until("ready")
    await bench.ask("/fake/settings", {"itl_s": 5})
    asked = asyncio.create_task(bench.ask("/v1/completions", LONG))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    driver.drain(0.6)
    await asyncio.wait_for(bench.tasks[0], 10)
    assert 0.6 <= time.monotonic() - begun < 4
    assert "1 request(s) cut off" in " ".join(bench.states)
    with pytest.raises(Exception, match="POST /v1/completions"):
        await asked


@pytest.mark.parametrize(("twice", "limit_s", "state"), [(True, 60, "ready"), (False, 0, "ready"), (False, 60, "loading")])
async def test_it_ends_at_once(bench: Bench, twice: bool, limit_s: float, state: str) -> None:
    """At a second signal, without a limit, and when the engine is not ready."""
    driver = bench.start("slow" if state == "loading" else "good")
    await bench.until(state)
    begun = time.monotonic()
    driver.drain(limit_s)
    if twice:
        await asyncio.sleep(0.1)
        assert driver.status().engine_pid is not None
        driver.drain(limit_s)
    await asyncio.wait_for(bench.tasks[0], 10)
    assert time.monotonic() - begun < 5


async def test_an_engine_that_dies_while_it_drains_is_not_started_again(bench: Bench) -> None:
    driver = bench.start()
    pid = (await bench.until("ready")).engine_pid or 0
    driver.drain(60)
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(bench.tasks[0], 10)
    assert (driver.status().state, driver.status().restarts) == (WorkerState.DRAINING, 0)


def test_signals_of_the_process(workers: Workers) -> None:
    """SIGTERM drains: its port says so, is not ready, and the answer comes whole. Nothing of it is left."""
    worker = workers.start("good", "--drain-s", "20")
    pid = worker.wait_for("ready")["engine_pid"]
    assert worker.call(path="/readyz", token=None) == (200, {"state": "ready"})
    worker.ask_engine("POST", "/fake/settings", {"itl_s": 0.05})
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(worker.ask_engine("POST", "/v1/completions", LONG)))
    asking.start()
    time.sleep(0.3)
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for("draining")
    assert worker.call(path="/readyz", token=None) == (503, {"state": "draining"})
    begun = time.monotonic()
    assert worker.process.wait(15) == 0
    assert time.monotonic() - begun > 1.5  # the gateway gets 2.5 s to hear of it
    asking.join()
    assert got[0]["usage"]["completion_tokens"] == 20
    assert gone(pid)


def test_ctrl_c_does_not_wait(workers: Workers) -> None:
    worker = workers.start("good", "--drain-s", "60")
    worker.wait_for("ready")
    begun = time.monotonic()
    assert worker.stop(signal.SIGINT) == 0
    assert time.monotonic() - begun < 8
