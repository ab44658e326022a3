"""A placement on demand: loaded and unloaded when it is told to, with real engine processes (the stand-in)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.wire.worker import WorkerState
from services.worker import lifecycle
from services.worker.admission import simulated_free
from tests.worker.bench import Bench
from tests.worker.running import alive, gone
from tests.worker.sample import BILL, CPU, GIB, placement, plan

ON_DEMAND = replace(placement(CPU), on_demand=True)


@pytest.mark.slow
async def test_it_is_loaded_and_unloaded_when_told(bench: Bench) -> None:
    driver = bench.start(where=ON_DEMAND)
    status = await bench.until("unloaded")
    assert (status.engine_pid, status.restarts) == (None, 0)
    assert bench.log.lines() == (), "nothing is started before somebody asks"
    driver.load()
    driver.load()
    first = (await bench.until("ready")).engine_pid or 0
    driver.unload()
    driver.unload()
    assert driver.status().state is WorkerState.DRAINING, "its memory is not free yet"
    status = await bench.until("unloaded")
    assert gone(first)
    assert (status.engine_pid, status.resident_bytes, status.restarts) == (None, None, 0)
    driver.load()
    status = await bench.until("ready")
    assert alive(status.engine_pid or 0)
    assert (status.engine_pid != first, status.restarts) == (True, 0)


@pytest.mark.slow
async def test_what_runs_on_it_may_end(bench: Bench) -> None:
    driver = bench.start(where=ON_DEMAND)
    driver.load()
    await bench.until("ready")
    await bench.ask("/fake/settings", {"itl_s": 0.04})
    asked = asyncio.create_task(bench.ask("/v1/completions", {"model": "small-chat", "prompt": "Hello", "max_tokens": 20}))  # 0.8 s
    await asyncio.sleep(0.1)
    driver.unload()
    answer = await asked
    assert (answer.status, answer.json()["usage"]["completion_tokens"]) == (200, 20)
    await bench.until("unloaded")


@pytest.mark.slow
async def test_an_unload_while_it_loads_and_one_that_stays_by_the_plan(bench: Bench) -> None:
    driver = bench.start("slow")
    pid = (await bench.until(lambda now: now.engine_pid is not None)).engine_pid or 0
    driver.unload()
    await bench.until("unloaded")
    assert gone(pid)
    driver.restart()
    await bench.until("loading")


@pytest.mark.slow
async def test_a_load_after_it_was_given_up_tries_again(bench: Bench) -> None:
    driver = bench.start("crash", where=ON_DEMAND)
    driver.load()
    await bench.until("failed")
    driver.load()
    await bench.until(lambda now: now.restarts == 3)


def test_memory_of_others_on_demand_is_not_counted() -> None:
    other = replace(placement(CPU), id="other")
    stays = plan(CPU, ON_DEMAND, other)
    swaps = plan(CPU, ON_DEMAND, replace(other, on_demand=True))
    assert (simulated_free(stays, ON_DEMAND, CPU, None).free_bytes or 0) + BILL.total_bytes == CPU.total_bytes
    assert simulated_free(swaps, ON_DEMAND, CPU, 64 * GIB).free_bytes == CPU.total_bytes


def test_idle_is_two_looks_or_the_limit() -> None:
    assert not lifecycle.is_idle(1, 3.0, 600.0)
    assert lifecycle.is_idle(2, 1.0, 600.0)
    assert lifecycle.is_idle(0, 600.0, 600.0)
