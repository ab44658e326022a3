"""The supervisor with children that do nothing: order of starting, restart, stopping."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from services.cli.child import Child
from services.cli.prepare import Prepared
from services.cli.stack import Stack, free_port, require_free_port
from services.worker.__main__ import arguments
from tests.e2e.stack import alive
from tests.worker.sample import CPU, placement


def sleeper(name: str, folder: Path, code: str = "import time; time.sleep(60)") -> Child:
    return Child(name, [sys.executable, "-c", code], folder, folder / f"{name}.log")


def stack(folder: Path) -> Stack:
    made = Stack(folder / "plan.yaml", "127.0.0.1", 8000, folder)
    made.gateway = sleeper("gateway", folder)
    made.workers = [sleeper(f"worker-{number}", folder) for number in range(3)]
    return made


def running(made: Stack) -> int:
    return sum(worker.process is not None and worker.exit_code() is None for worker in made.workers)


@pytest.fixture
def signals() -> Iterator[None]:
    """The stack takes over the signals of the process; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_all_start_and_stop(tmp_path: Path) -> None:
    made = stack(tmp_path)
    made.start()
    try:
        assert running(made) == 3
    finally:
        made.stop()
    assert running(made) == 0
    assert made.gateway.exit_code() is not None


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_small_host_loads_one_model_at_a_time(tmp_path: Path, one_by_one: bool) -> None:
    """What the shared lock does is tests/worker/test_loadlock.py's."""
    made = Stack(tmp_path / "plan.yaml", "127.0.0.1", 8000, tmp_path / "run", one_by_one=one_by_one)
    weights = Path("/w/m.gguf")
    made.build([Prepared(placement(CPU, ident=ident), ("--engine-binary", "/bin/true"), weights) for ident in ("a", "b")])
    locks = [arguments(worker.argv[3:]).load_lock for worker in made.workers]
    assert locks == ([made.folder / "load.lock"] * 2 if one_by_one else [None] * 2)
    assert [arguments(worker.argv[3:]).drain_s for worker in made.workers] == [0.0, 0.0], "Ctrl-C waits for nobody"


@pytest.mark.usefixtures("signals")
def test_a_child_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("services.cli.stack.RESTART_PAUSE_S", 0.05)
    made = stack(tmp_path)
    made.workers = made.workers[:1]
    made.start()
    try:
        process = made.workers[0].process
        assert process is not None
        process.kill()
        process.wait()
        until = time.monotonic() + 5
        while made.workers[0].process is process and time.monotonic() < until:
            made.tend()
            time.sleep(0.02)
        assert running(made) == 1
        assert "ended with code -9; starting it again" in capsys.readouterr().err
    finally:
        made.stop()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    child = sleeper("deaf", tmp_path, deaf)
    child.start()
    while "on" not in child.last_lines():
        time.sleep(0.02)
    child.terminate()
    child.wait(0.2)
    assert child.process is not None
    assert not alive(child.process.pid)


def test_a_taken_port_is_a_sentence() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(click.ClickException, match="in use"):
            require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)
