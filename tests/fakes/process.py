"""Starts fake engines as processes and talks to their /fake routes.

Use it in a room's tests by importing the fixture in that room's conftest.py:

    from tests.fakes.process import fake_engine  # noqa: F401

    def test_it(fake_engine):
        engine = fake_engine(model="tiny", itl_s=0.01)      # FakeEngineProcess, stopped after the test
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


@dataclass
class FakeEngineProcess:
    """`dirty`: told to do something else than it did at its start, so `reset` before others use it."""

    process: subprocess.Popen[str]
    url: str
    dirty: bool = False

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One exchange on a connection that is kept: tests ask often."""
        self._connection.request(method, path, None if body is None else json.dumps(body))
        return json.load(self._connection.getresponse())

    def fault(self, mode: str, **more: Any) -> None:
        self.dirty = True
        self.call("POST", "/fake/fault", {"mode": mode, **more})

    def set(self, **settings: Any) -> None:
        self.dirty = True
        self.call("POST", "/fake/settings", settings)

    def reset(self) -> None:
        self.call("POST", "/fake/reset", {})
        self.dirty = False

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.call("GET", "/fake/state")
        return state

    def kill(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self._connection.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        if self.process.stdout:
            self.process.stdout.close()


def start(model: str = "tiny", **options: Any) -> FakeEngineProcess:
    """Starts one and waits for its ready line. Options are the command line's: itl_s=0.1 -> --itl-s 0.1."""
    argv = [sys.executable, "-m", "tests.fakes.engine", "--model", model]
    for name, value in options.items():
        argv += ["--" + name.replace("_", "-"), str(value)]
    process = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "ready on" not in line:
        process.kill()
        raise RuntimeError(f"the fake engine did not start: {line!r}")
    return FakeEngineProcess(process, line.split()[-1])


@pytest.fixture
def fake_engine() -> Iterator[Callable[..., FakeEngineProcess]]:
    """A function that starts fake engines; all of them are stopped after the test."""
    running: list[FakeEngineProcess] = []

    def begin(model: str = "tiny", **options: Any) -> FakeEngineProcess:
        running.append(start(model, **options))
        return running[-1]

    yield begin
    for engine in running:
        engine.stop()
