"""A real stack for the e2e tests: `rigserve serve` as a user starts it, on a free port, with real engines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
RIGSERVE = PROJECT / ".venv" / "bin" / "rigserve"
FIRST_START_S = 1200.0  # environments may have to be installed first


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, timeout_s: float = 5.0) -> Any:
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return json.load(answer)


def post(url: str, body: Any, timeout_s: float = 120.0) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers of a POST, whatever the status. `body` may be bytes, sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), dict(error.headers)


def descendants(pid: int) -> set[int]:
    """All processes below `pid` now, whatever their session."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = set(), [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.add(child)
            queue.append(child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@dataclass(slots=True)
class RunningStack:
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    ready_s: float

    @property
    def placements(self) -> dict[str, dict[str, Any]]:
        return {p["model_id"]: p for card in get(f"{self.url}/v1/cards")["data"] for p in card["placements"]}

    def wait_for(self, model: str, wanted: str, timeout_s: float) -> dict[str, Any]:
        """The placement of `model` once its state is `wanted`."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            placement = self.placements.get(model)
            if placement and placement["state"] == wanted:
                return placement
            time.sleep(0.1)
        raise AssertionError(f"{model} was not {wanted} within {timeout_s} s: {self.placements.get(model)}\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start(folder: Path, *arguments: str, timeout_s: float = FIRST_START_S) -> RunningStack:
    """Start and wait for the ready banner."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    begun = time.monotonic()
    with log.open("wb") as out:
        command = [RIGSERVE, "serve", "--port", str(port), "--run-dir", str(folder), *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    stack = RunningStack(process, f"http://127.0.0.1:{port}", log, 0.0)
    while "rigserve is ready" not in log.read_text(errors="replace"):
        assert process.poll() is None, f"serve ended with {process.returncode}:\n{stack.tail()}"
        assert time.monotonic() - begun < timeout_s, f"not ready after {timeout_s} s:\n{stack.tail()}"
        time.sleep(0.2)
    stack.ready_s = time.monotonic() - begun
    return stack


def stop(stack: RunningStack, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> set[int]:
    """Send a signal, wait for the end, and return the processes of the stack that are still alive (there must be none)."""
    everyone = descendants(stack.process.pid)
    stack.process.send_signal(number)
    stack.process.wait(timeout_s)
    time.sleep(0.2)
    return {pid for pid in everyone if alive(pid)}
