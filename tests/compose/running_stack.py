"""A stack that `rigserve compose` wrote and docker compose runs, with the words that tests need to ask it, break it and look inside."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.sizing.types import Plan
from tests.compose.engine import ROOT, Engine
from tests.compose.rigs import write
from tests.e2e.stack import get, post

UP_S = 420.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class RunningStack:
    """`folder` holds the generated files, `name` is the compose project, `port` the published one."""

    engine: Engine
    folder: Path
    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def file(self) -> Path:
        return self.folder / "compose.yaml"

    def rigserve(self, *words: str, check: bool = True, timeout_s: float = UP_S) -> subprocess.CompletedProcess[str]:
        """The product's own command, on this engine."""
        done = subprocess.run([sys.executable, "-m", "services.cli.main", *words], capture_output=True, text=True, check=False,
                              timeout=timeout_s, cwd=ROOT, env=self.engine.environment)  # fmt: skip
        assert not check or done.returncode == 0, f"rigserve {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def compose(self, *words: str, timeout_s: float = UP_S) -> str:
        return self.engine.docker("compose", "-f", str(self.file), "-p", self.name, *words, timeout_s=timeout_s).stdout.strip()

    def config(self) -> dict[str, Any]:
        """The file as compose understands it, every profile."""
        told: dict[str, Any] = json.loads(self.compose("--profile", "*", "config", "--format", "json"))
        return told

    def services(self) -> list[str]:
        """What runs now."""
        return sorted(self.compose("ps", "--services", "--status", "running").split())

    def container(self, service: str) -> str:
        """Its name, as compose makes it."""
        return f"{self.name}-{service}-1"

    def inspect(self, service: str) -> dict[str, Any]:
        told: list[dict[str, Any]] = json.loads(self.engine.said("inspect", self.container(service)))
        return told[0]

    def inside(self, service: str, *argv: str, user: str | None = None) -> str:
        """What a command in the container prints; as the container's user unless another is given."""
        as_user = ("--user", user) if user else ()
        return self.engine.said("exec", *as_user, self.container(service), *argv)

    def logs(self, service: str) -> list[tuple[str, str]]:
        """(the engine's time stamp, the line) of everything that it said, both streams."""
        done = self.engine.docker("logs", "--timestamps", self.container(service))
        lines = [line.partition(" ") for line in (done.stdout + done.stderr).splitlines()]
        return sorted((stamp, text) for stamp, _, text in lines)

    def placements(self) -> dict[str, dict[str, Any]]:
        """Placement id -> what the gateway says of it."""
        return {p["id"]: p for card in get(f"{self.url}/v1/cards")["data"] for p in card["placements"]}

    def state(self, placement: str) -> str:
        return str(self.placements()[placement]["state"])

    def wait_for(self, what: str, holds: Callable[[], bool], within_s: float) -> float:
        """Seconds until it holds; no answer counts as no."""
        began = time.monotonic()
        while True:
            try:
                if holds():
                    return time.monotonic() - began
            except OSError:
                pass
            assert time.monotonic() - began < within_s, f"{what}: not within {within_s:.0f} s\n{self.tail()}"
            time.sleep(0.05)

    def wait_state(self, placement: str, wanted: str, within_s: float) -> float:
        return self.wait_for(f"{placement} is {wanted}", lambda: self.state(placement) == wanted, within_s)

    def wait_all_ready(self, within_s: float) -> float:
        return self.wait_for("every placement is ready", lambda: {p["state"] for p in self.placements().values()} == {"ready"}, within_s)

    def wait_idle(self, within_s: float = 15.0) -> None:
        """No seat is taken, at the gateway and as it tells Prometheus."""
        self.wait_for("no seat is taken", lambda: all(p["in_flight"] == 0 for p in self.placements().values()), within_s)

    def tail(self, lines: int = 25) -> str:
        """What the services said last, without the gateway's line for each request."""
        done = self.engine.docker("compose", "-f", str(self.file), "-p", self.name, "logs", "--no-color", "--tail", "400", check=False)
        kept: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            if '"event":"request"' not in line:
                kept.setdefault(line.partition("|")[0], []).append(line)
        return "\n".join(line[:300] for of_one in kept.values() for line in of_one[-lines:])

    def chat(self, model: str, *, max_tokens: int = 8, timeout_s: float = 60.0) -> tuple[int, Any, dict[str, str]]:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens, "temperature": 0}
        return post(f"{self.url}/v1/chat/completions", body, timeout_s)

    def answers_from(self, placement: str, model: str, within_s: float = 20.0) -> float:
        """Seconds until a request was answered by just this placement. Many at once: an idle gateway sends all to the fastest card."""

        def answered() -> bool:
            body = {"model": model, "prompt": "Hello", "max_tokens": 4}
            with ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(lambda _: post(f"{self.url}/v1/completions", body), range(12)))
            assert {status for status, _, _ in answers} <= {200, 502, 503}, answers
            return any(status == 200 and headers.get("x-rigserve-backend") == placement for status, _, headers in answers)

        return self.wait_for(f"{placement} answers", answered, within_s)


def generate(engine: Engine, folder: Path, plan: Plan, *options: str) -> RunningStack:
    """`rigserve compose` into `folder`, under a name and a port of its own. Nothing is started."""
    stack = RunningStack(engine, folder, f"rst-{uuid.uuid4().hex[:8]}", free_port())
    given = write(plan, folder.parent / f"{folder.name}-plan.yaml")
    stack.rigserve("compose", str(given), "-o", str(folder), "--name", stack.name, "--port", str(stack.port), *options)
    return stack


@contextmanager
def up(stack: RunningStack) -> Iterator[RunningStack]:
    """Started as docker's users do, `up --detach --wait`, and gone afterwards with its volumes. What it said is printed on a failure."""
    try:
        stack.compose("up", "--detach", "--wait", "--wait-timeout", str(int(UP_S)), timeout_s=UP_S + 30)
        yield stack
    except BaseException:
        print(stack.tail(80))
        raise
    finally:
        down(stack)


def down(stack: RunningStack) -> None:
    stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "1")


def secret_words(stack: RunningStack) -> dict[str, str]:
    """Every secret of the folder that is not empty."""
    files = {path.name: path.read_text(encoding="utf8") for path in (stack.folder / "secrets").iterdir()}
    return {name: text for name, text in files.items() if text}
