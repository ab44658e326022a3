"""The supervisor of a native stack: one gateway and one worker per placement, started, watched, and stopped together.

Each child is a separate program that obeys the plan file; nothing here knows what a model is. Files of a run live in
`run/<port>/` of the project: endpoints.json, tokens/ (0600), logs/.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click

from services.cli.child import Child
from services.cli.gateway import database_flags
from services.cli.prepare import Prepared

PROJECT = Path(__file__).parents[2]
GATEWAY_GRACE_S = 15.0
WORKER_GRACE_S = 25.0
RESTART_PAUSE_S = 2.0


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free_port(host: str, port: int) -> None:
    """Say it before anything is started when the gateway's port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise click.ClickException(
                f"port {port} of {host} is in use ({error.strerror}); stop what uses it or choose another with --port "
                f"(make serve PORT={port + 1})"
            ) from error


def _private_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf8")
    return path


@dataclass(slots=True)
class Stack:
    """All children of one `rigserve serve`. The folder is emptied at the start: nothing of an older run is believed.

    `one_by_one`: the workers share a load lock, so that a small host never loads two models at once, at a restart neither.
    `opened`: without keys, others than this machine may ask too.
    """

    plan_file: Path
    host: str
    port: int
    folder: Path
    gateway: Child = field(init=False)
    workers: list[Child] = field(default_factory=list)
    one_by_one: bool = False
    opened: bool = False
    stopping: int = 0
    _restart_at: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104 - compared, not bound

    def build(self, prepared: list[Prepared]) -> None:
        """Choose ports and tokens, write endpoints.json, and know each child's command line."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        endpoints = []
        for item in prepared:
            ident = item.placement.id
            token_file = _private_file(self.folder / "tokens" / ident, secrets.token_hex(32))
            worker_port, engine_port = free_port(), free_port()
            endpoints.append({"placement_id": ident, "worker_url": f"http://127.0.0.1:{worker_port}",
                              "engine_url": f"http://127.0.0.1:{engine_port}", "token_file": str(token_file)})
            argv = [sys.executable, "-m", "services.worker", "--plan", str(self.plan_file), "--placement", ident,
                    "--host", "127.0.0.1", "--port", str(worker_port), "--engine-port", str(engine_port),
                    "--token-file", str(token_file), "--weights", str(item.weights), *item.engine,
                    "--log-file", str(self.folder / "logs" / f"{ident}.engine.log"), "--state-dir", str(self.folder / "state" / ident),
                    *(("--load-lock", str(self.folder / "load.lock")) if self.one_by_one else ())]
            self.workers.append(Child(f"worker {ident}", argv, PROJECT, self.folder / "logs" / f"{ident}.worker.log"))
        endpoints_file = _private_file(self.folder / "endpoints.json", json.dumps({"endpoints": endpoints}, indent=2))
        self.gateway = Child("gateway", [sys.executable, "-m", "services.gateway", "--plan", str(self.plan_file),
                                         "--endpoints", str(endpoints_file), "--host", self.host, "--port", str(self.port),
                                         "--open-status", *database_flags(None), *(("--open",) if self.opened else ())],
                             PROJECT, self.folder / "logs" / "gateway.log")

    def start(self) -> None:
        """Signals first, so that a Ctrl-C during the start stops what was started."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        for child in (self.gateway, *self.workers):
            child.start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping += 1

    def tend(self) -> None:
        """Start again any child that ended by itself, after a pause; engines are their workers' business."""
        now = time.monotonic()
        for child in (self.gateway, *self.workers):
            code = child.exit_code()
            if code is None:
                continue
            if child.name not in self._restart_at:
                click.echo(f"{child.name} ended with code {code}; starting it again (log: {child.log})", err=True)
                self._restart_at[child.name] = now + RESTART_PAUSE_S
            elif now >= self._restart_at[child.name]:
                del self._restart_at[child.name]
                child.start()

    def stop(self) -> None:
        """Gateway first (it drains), then all workers at once. A second signal shortens the patience to a second."""
        self.gateway_down()
        for worker in self.workers:
            worker.terminate()
        until = time.monotonic() + WORKER_GRACE_S
        for worker in self.workers:
            worker.wait(self._patience(until))

    def gateway_down(self) -> None:
        self.gateway.terminate()
        until = time.monotonic() + GATEWAY_GRACE_S
        while self.gateway.exit_code() is None and self.stopping < 2 and time.monotonic() < until:
            time.sleep(0.1)
        self.gateway.wait(1.0)

    def _patience(self, until: float) -> float:
        return 5.0 if self.stopping > 1 else max(1.0, until - time.monotonic())
