"""Two workers of one host never load at the same time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from services.wire.worker import WorkerState
from services.worker import lifecycle
from services.worker.loadlock import LoadLock
from tests.worker.bench import Bench
from tests.worker.running import Workers

pytestmark = pytest.mark.slow

WAITING = "waiting for another model to load"


def test_one_holds_it(tmp_path: Path) -> None:
    one, two = LoadLock(tmp_path / "lock"), LoadLock(tmp_path / "lock")
    assert one.take()
    assert not two.take()
    two.release()  # not its own: of no effect
    assert not two.take()
    one.release()
    assert two.take()
    two.close()
    assert one.take()
    one.close()


def test_a_read_only_file_will_do(tmp_path: Path) -> None:
    """The file of another user, or one on a volume that is mounted read-only."""
    (tmp_path / "lock").touch(mode=0o444)
    lock = LoadLock(tmp_path / "lock")
    assert lock.take()
    lock.close()


async def test_one_waits_while_the_other_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_S", 0.02)
    benches = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        benches.append(Bench(tmp_path / name))
    try:
        for bench in benches:
            bench.start("slow", load_lock=LoadLock(tmp_path / "lock"))
        both = [bench.driver for bench in benches]
        busy = {WorkerState.LOADING, WorkerState.WARMING}
        waited = False
        until = time.monotonic() + 30
        while not all(driver.life.state is WorkerState.READY for driver in both):
            assert time.monotonic() < until
            states = [driver.life.state for driver in both]
            assert sum(state in busy for state in states) <= 1, states
            waited |= any(driver.life.reason == WAITING and driver.life.state is WorkerState.STARTING for driver in both)
            await asyncio.sleep(0.005)
        assert waited
    finally:
        for bench in benches:
            await bench.stop()


async def test_the_wait_is_not_part_of_the_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start may take 2 s here; another model takes longer."""
    monkeypatch.setattr(lifecycle, "LEAST_START_S", 2.0)
    other = LoadLock(bench.folder / "lock")
    assert other.take()
    bench.start(load_lock=LoadLock(bench.folder / "lock"))
    status = await bench.until(lambda now: now.reason == WAITING)
    assert (status.state, status.engine_pid) == (WorkerState.STARTING, None)
    await asyncio.sleep(2.2)
    other.close()
    status = await bench.until("ready")
    assert status.restarts == 0
    assert (status.load_s or 9) < 2


async def test_a_failed_start_gives_it_back_and_a_stop_ends_the_wait(bench: Bench) -> None:
    mine = LoadLock(bench.folder / "lock")
    bench.start("crash", load_lock=LoadLock(bench.folder / "lock"))
    await bench.until("failed")
    assert mine.take()
    bench.driver.restart()
    await bench.until(lambda now: now.reason == WAITING)
    bench.driver.stop()
    await asyncio.wait_for(bench.tasks[0], 2)
    mine.close()


def test_the_kernel_gives_back_what_a_killed_worker_held(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Workers(tmp_path / "second")
    try:
        lock = str(tmp_path / "lock")
        first = workers.start("stuck", "--load-lock", lock)
        first.wait_for("loading")
        follower = second.start("good", "--load-lock", lock)
        follower.wait_for(lambda now: now["reason"] == WAITING)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        follower.wait_for("ready")
    finally:
        second.close()


def test_a_lock_that_cannot_be_made(workers: Workers) -> None:
    argv, _, _ = workers.arguments("good")
    code, said = workers.run(*argv, "--load-lock", "/nowhere/lock")
    assert code == 2
    assert "--load-lock /nowhere/lock can't be opened (No such file or directory)" in said


async def test_a_file_system_without_locks_is_said_and_gone_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(os.strerror(37))

    lock = LoadLock(bench.folder / "lock")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    bench.start(load_lock=lock)
    await bench.until("ready")
    assert "the load lock can't be taken" in " ".join(bench.states)
