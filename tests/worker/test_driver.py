"""The driver with real engine processes (the stand-in), short times, in this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.calibration.record import observations_of
from services.calibration.store import Store
from services.hardware.memory import CardLostError
from services.wire.worker import WorkerState
from services.worker import admission, lifecycle
from services.worker.engines import launch
from services.worker.engines.order import Launch, LaunchError, Order
from services.worker.probe import EngineHttp
from tests.worker.bench import FAST, Bench
from tests.worker.running import alive, gone
from tests.worker.sample import BILL, CPU, GIB, RTX3060TI, TOKEN, placement

pytestmark = pytest.mark.slow


async def test_the_way_up(bench: Bench) -> None:
    begun = time.monotonic()
    bench.start()
    status = await bench.until("ready")
    assert time.monotonic() - begun < 15.0  # 0.3 s on an idle machine; the tests may share theirs
    assert [line.split(":")[1].strip() for line in bench.states] == ["loading", "warming", "measured", "ready"]
    assert alive(status.engine_pid or 0)
    assert status.peak_bytes is not None
    assert status.resident_bytes is not None
    assert (bench.folder / "engine.log").read_text().startswith("--- start 1 of small-0\n")
    assert status.measured is not None
    assert observations_of([json.loads(json.dumps(status.measured))])[0].peak_bytes == status.peak_bytes


async def test_what_was_measured_is_kept_and_a_store_that_fails_stops_nothing(bench: Bench, tmp_path: Path) -> None:
    store = Store(tmp_path / "kept.db")
    driver = bench.start(calibration=store)
    status = await bench.until("ready")
    driver.restart()
    await bench.until(lambda now: now.restarts == 1 and now.state == "ready")
    (kept,) = store.all()
    assert (kept.model_id, kept.card_kind, kept.simulated, kept.runs) == ("small-chat", "Simulated CPU card", True, 2)
    assert kept.peak_bytes is not None
    assert kept.peak_bytes >= (status.peak_bytes or 0)
    assert kept.predicted_bytes == BILL.total_bytes - BILL.reserve_bytes
    store.path.write_text("this is no database" * 100)
    driver.restart()
    await bench.until(lambda now: now.restarts == 2 and now.state == "ready")
    assert any("not kept: " in line for line in bench.states)


async def test_crash_loop_is_given_up_and_can_be_asked_again(bench: Bench) -> None:
    driver = bench.start("crash")
    status = await bench.until("failed")
    assert status.reason is not None
    assert status.reason.startswith("given up after 3 starts; the last: the engine ended with code 1: llama_model_load: error loading")
    assert (status.restarts, status.engine_pid) == (2, None)
    driver.restart()
    await bench.until(lambda now: now.restarts == 3)
    files = len(os.listdir("/proc/self/fd"))
    assert (await bench.until("failed")).restarts == 5
    driver.restart()
    await bench.until(lambda now: now.restarts == 6)
    assert (await bench.until("failed")).restarts == 8
    await asyncio.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) <= files, "a restart leaves open files behind"


async def test_crash_loop_can_end_the_run(bench: Bench) -> None:
    bench.start("crash", until_failed=True)
    await asyncio.wait_for(bench.tasks[0], 30)
    assert bench.driver.life.state is WorkerState.FAILED


async def test_a_warm_up_that_fails_is_not_ready(bench: Bench) -> None:
    bench.start("badwarm")
    status = await bench.until("failed")
    assert "warm-up request failed with 500" in (status.reason or "")
    assert not any(": ready" in line for line in bench.states)


async def test_a_hung_engine_is_restarted(bench: Bench) -> None:
    bench.start(timing=replace(FAST, probe_timeout_s=0.5))
    pid = (await bench.until("ready")).engine_pid or 0
    os.kill(pid, signal.SIGSTOP)  # its port still takes connections, as a deadlocked engine's does
    status = await bench.until("restarting")
    assert "hung: 3 health probes in a row failed" in (status.reason or "")
    after = await bench.until("ready")
    assert after.engine_pid != pid
    assert after.restarts == 1
    assert gone(pid)


async def test_an_engine_that_only_answers_health_is_restarted_when_doubted(bench: Bench) -> None:
    driver = bench.start(timing=replace(FAST, check_timeout_s=0.3))
    pid = (await bench.until("ready")).engine_pid
    driver.check()
    await asyncio.sleep(0.3)
    assert driver.status().engine_pid == pid, "an engine that works is left alone"
    port = bench.engine_port
    await asyncio.to_thread(EngineHttp("127.0.0.1", port, TOKEN).ask, "POST", "/fake/fault", {"mode": "hang"}, timeout_s=5)
    await asyncio.sleep(0.3)
    assert driver.status().state is WorkerState.READY, "health alone can't tell"
    driver.check()
    status = await bench.until("restarting")
    assert "no answer to a small request within 0.3 s, and its counters stand still" in (status.reason or "")
    assert (await bench.until("ready")).engine_pid != pid


async def test_a_start_that_takes_too_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "LEAST_START_S", 0.4)
    bench.start("slow")
    status = await bench.until(lambda now: now.state in ("restarting", "failed"))
    assert "not loaded after 0 s; its last line:" in (status.reason or "")


async def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(bench: Bench) -> None:
    driver = bench.start("stubborn")
    pid = (await bench.until("ready")).engine_pid or 0
    begun = time.monotonic()
    driver.stop()
    assert driver.status().state is WorkerState.DRAINING
    await bench.tasks[0]
    assert 0.45 < time.monotonic() - begun < 8.0  # the grace is 0.5 s
    assert not alive(pid)
    assert "SIGTERM? no." in bench.log.lines()


async def test_a_stop_while_loading(bench: Bench) -> None:
    driver = bench.start("slow")
    pid = (await bench.until(lambda now: now.engine_pid is not None)).engine_pid or 0
    driver.stop()
    await asyncio.wait_for(bench.tasks[0], 20)
    assert not alive(pid)


async def test_too_little_memory_is_refused_before_any_load(bench: Bench) -> None:
    bench.start(where=placement(CPU, bill=replace(BILL, weights_bytes=5 * GIB)))
    status = await bench.until("failed")
    assert "needs 5.94 GiB" in (status.reason or "")
    assert "1.94 GiB short" in (status.reason or "")
    assert (status.restarts, status.engine_pid, status.free_bytes_at_start) == (0, None, 4 * GIB)
    assert bench.log.lines() == ()


async def test_memory_that_comes_back_late_after_a_crash(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead engine's memory may still be held for a moment: not a reason to give up an engine that has been ready."""
    bench.start()
    pid = (await bench.until("ready")).engine_pid or 0
    answers = [admission.Free(GIB // 10, None, "still held"), admission.Free(2 * GIB, None, "free again")]
    monkeypatch.setattr(admission, "measure", lambda *_: answers.pop(0) if len(answers) > 1 else answers[0])
    os.kill(pid, signal.SIGKILL)
    await bench.until(lambda now: "still held" in (now.reason or ""))
    assert (await bench.until("ready")).free_bytes_at_start == 2 * GIB


async def test_a_lost_card_is_given_up_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> admission.Free:
        raise CardLostError("the card GPU-3060ti doesn't answer any more: the card has fallen off the bus.")

    monkeypatch.setattr(admission, "measure", lost)
    bench.start(card=RTX3060TI)
    status = await bench.until("failed")
    assert "fallen off the bus" in (status.reason or "")
    assert status.restarts == 0


async def test_a_placement_that_cannot_be_started(bench: Bench) -> None:
    def no(order: Order) -> Launch:
        raise LaunchError("plan it again.")

    bench.start(launcher=no)
    assert (await bench.until("failed")).reason == "plan it again."


async def test_a_taken_engine_port(bench: Bench) -> None:
    other = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    try:
        driver = bench.start()
        driver._order = replace(driver._order, engine_port=other.sockets[0].getsockname()[1])
        assert "is in use by another program" in ((await bench.until("failed")).reason or "")
    finally:
        other.close()
        await other.wait_closed()


async def test_a_program_that_is_not_there(bench: Bench) -> None:
    bench.start(launcher=lambda o: replace(launch(o), argv=("/nowhere/llama-server",)))
    status = await bench.until("failed")
    assert "cannot start /nowhere/llama-server: No such file or directory" in (status.reason or "")


async def test_private_files_are_private_and_removed(bench: Bench) -> None:
    from services.worker.engines.order import PrivateFile

    secret = bench.folder / "state" / "vllm.yaml"
    driver = bench.start(launcher=lambda o: replace(launch(o), files=(PrivateFile(secret, "api-key: [x]"),)))
    await bench.until("ready")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text() == "api-key: [x]"
    driver.stop()
    await bench.tasks[0]
    assert not secret.exists()
