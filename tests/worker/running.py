"""A real worker process for the tests: `python -m services.worker` with the stand-in for llama-server as its engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.sizing.planfile import dump_plan
from services.sizing.types import Engine, Placement, Plan
from services.worker.inflight import requests_in_flight
from tests.worker.sample import CPU, TOKEN, placement, plan

PROJECT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid: int, within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not alive(pid)


def stand_in(folder: Path) -> Path:
    """A program that takes llama-server's place (without site-packages: it starts in a tenth of a second)."""
    binary = folder / "llama-server"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).with_name("llama_stand_in.py")} "$@"\n')
    binary.chmod(0o755)
    return binary


@dataclass
class Worker:
    process: subprocess.Popen[Any]
    port: int
    engine_port: int
    folder: Path
    seen: list[str] = field(default_factory=list)

    def call(self, method: str = "GET", path: str = "/status", token: str | None = TOKEN) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def status(self) -> dict[str, Any]:
        code, body = self.call()
        assert code == 200
        if not self.seen or self.seen[-1] != body["state"]:
            self.seen.append(body["state"])
        return body  # type: ignore[no-any-return]

    def ask_engine(self, method: str, path: str, body: Any = None, timeout_s: float = 120) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.engine_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=timeout_s) as answer:
            return json.load(answer)

    def in_flight(self, engine: Engine) -> int | None:
        """What the engine's own metrics say."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.engine_port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return requests_in_flight(engine, answer.read().decode())

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool] | str, within_s: float = 30.0) -> dict[str, Any]:
        """The first status that is wanted (a state, or a function of the status)."""
        test = wanted if callable(wanted) else lambda status: status["state"] == wanted
        until = time.monotonic() + within_s
        status: dict[str, Any] = {}
        while time.monotonic() < until:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}: {self.errors()}"
            try:
                status = self.status()
            except OSError:
                status = {}  # its port is not open yet
            if status and test(status):
                return status
            time.sleep(0.01)
        raise AssertionError(f"not {wanted} within {within_s} s: {status}; states {self.seen}\n{self.log()}\n{self.errors()}")

    def log(self) -> str:
        path = self.folder / "engine.log"
        return path.read_text() if path.exists() else ""

    def errors(self) -> str:
        return (self.folder / "worker.err").read_text()

    def stop(self, number: int = signal.SIGTERM, within_s: float = 30.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)


class Workers:
    """Starts workers for one test and kills what is left of them after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Worker] = []

    def arguments(self, mode: str, *, where: Placement | None = None, made: Plan | None = None) -> tuple[list[str], int, int]:
        where = where or placement(CPU)
        made = made or plan(CPU, where)
        (self.folder / "plan.yaml").write_text(dump_plan(made))
        (self.folder / f"{mode}.gguf").write_bytes(b"GGUF")
        token = self.folder / "token"
        token.write_text(TOKEN)
        binary = stand_in(self.folder)
        port, engine_port = free_port(), free_port()
        return ["--plan", str(self.folder / "plan.yaml"), "--placement", where.id, "--port", str(port), "--engine-port", str(engine_port),
                "--token-file", str(token), "--weights", str(self.folder / f"{mode}.gguf"), "--engine-binary", str(binary),
                "--log-file", str(self.folder / "engine.log"), "--state-dir", str(self.folder / "state")], port, engine_port

    def start(self, mode: str = "good", *more: str, where: Placement | None = None, made: Plan | None = None) -> Worker:
        argv, port, engine_port = self.arguments(mode, where=where, made=made)
        env = {**os.environ, "SECRET_OF_THE_USER": "hunter2"}
        with (self.folder / "worker.err").open("w") as err:
            process = subprocess.Popen([sys.executable, "-m", "services.worker", *argv, *more], cwd=PROJECT, env=env, text=True,
                                       stdout=subprocess.DEVNULL, stderr=err)
        self.started.append(Worker(process, port, engine_port, self.folder))
        return self.started[-1]

    def start_real(self, made: Plan, weights: Path, engine_python: Path, *more: str) -> Worker:
        """A worker of a plan's only placement, with its real engine."""
        (self.folder / "plan.yaml").write_text(dump_plan(made))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        port, engine_port = free_port(), free_port()
        argv = ["--plan", str(self.folder / "plan.yaml"), "--placement", made.placements[0].id, "--port", str(port), "--engine-port",
                str(engine_port), "--token-file", str(token), "--weights", str(weights), "--engine-python", str(engine_python),
                "--log-file", str(self.folder / "engine.log"), "--state-dir", str(self.folder / "state")]
        with (self.folder / "worker.err").open("w") as err:
            process = subprocess.Popen([sys.executable, "-m", "services.worker", *argv, *more], cwd=PROJECT, stdout=subprocess.DEVNULL,
                                       stderr=err)
        self.started.append(Worker(process, port, engine_port, self.folder))
        return self.started[-1]

    def run(self, *argv: str) -> tuple[int, str]:
        """A worker that is expected to end by itself: exit code and what it said."""
        done = subprocess.run([sys.executable, "-m", "services.worker", *argv], cwd=PROJECT, text=True, capture_output=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def close(self) -> None:
        for worker in self.started:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
