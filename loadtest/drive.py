"""Runs locust as a child with a whole Spec, watches the server beside it, and gives back what was seen."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.result import Beside, result_of
from loadtest.scrape import Scraper
from loadtest.slo import Slo
from loadtest.spec import Spec
from loadtest.surroundings import surroundings

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
GRACE_S = 60.0


class DriveError(Exception):
    """The load could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Drill:
    """A command that is run `at_s` after the start, and marked on the plots: `20:pause card 1:docker pause worker-1`."""

    at_s: float
    what: str
    command: tuple[str, ...]


def read_drill(text: str) -> Drill:
    """Raises ValueError with a sentence."""
    parts = text.split(":", 2)
    try:
        at_s = float(parts[0])
        command = tuple(shlex.split(parts[2]))
    except (ValueError, IndexError):
        at_s, command = -1.0, ()
    if at_s < 0 or not command or not parts[1].strip():
        raise ValueError(f"{text!r} is not a drill; write SECONDS:NAME:COMMAND, such as '20:pause:docker pause worker-1'")
    return Drill(at_s, parts[1].strip(), command)


def run(spec: Spec, out: Path, slo: Slo, processes: int = 1, drills: tuple[Drill, ...] = (), calibration: dict[str, Any] | None = None,
        watch: bool = True) -> dict[str, Any]:  # fmt: skip
    """One run: its requests in OUT/requests.jsonl, locust's words in OUT/locust.log. The result, not yet written."""
    if importlib.util.find_spec("locust") is None:
        raise DriveError("locust is not in this environment; `make load` has one of its own (.venvs/loadtest/bin/python -m loadtest ...)")
    rows_file = out / "requests.jsonl"
    rows_file.unlink(missing_ok=True)
    about = surroundings()
    if not watch:
        _locust(spec, out, rows_file, processes)
        return result_of(spec, read_rows(rows_file, out), slo, Beside(surroundings=about, generators=processes))
    with Scraper(spec.url, spec.api_key_file) as seen, _Drills(drills) as drilled:
        _locust(spec, out, rows_file, processes)
    beside = Beside(
        seen.before, seen.after, tuple(seen.power), seen.power_source, seen.cards, tuple(drilled.marks), about, calibration, processes
    )
    return result_of(spec, read_rows(rows_file, out), slo, beside)


def _locust(spec: Spec, out: Path, rows_file: Path, processes: int) -> None:
    spec_file = out / "spec.json"
    spec_file.write_text(spec.to_json(), encoding="utf8")
    users = processes if spec.open_loop else spec.users
    argv = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", spec.url, "--only-summary",
        "--exit-code-on-error", "0",
        "--load-spec-file", str(spec_file), "--load-rows", str(rows_file), "--load-generators", str(processes),
        "--stop-timeout", f"{math.ceil(spec.drain_s)}s",
    ]
    # An open loop ends by itself, and locust stops it only when it has not: its greenlets are not known to locust.
    if spec.open_loop or spec.shape == "constant":
        argv += ["--users", str(users), "--spawn-rate", str(max(users, 1)), "--run-time", f"{math.ceil(spec.duration_s)}s"]
    if processes > 1:
        port = str(_free_port())
        argv += ["--processes", str(processes), "--master-port", port, "--master-bind-port", port, "--master-bind-host", "127.0.0.1"]
    limit_s = spec.duration_s + spec.drain_s + GRACE_S
    with (out / "locust.log").open("w", encoding="utf8") as log:
        child = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=_environment())
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise DriveError(f"locust did not end in {limit_s:.0f} s; its words are in {out / 'locust.log'}") from None
        finally:
            _end(child)
    if child.returncode not in (0, None) and not rows_file.exists():
        raise DriveError(f"locust ended with {child.returncode}: {_last_words(out / 'locust.log')}")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(child: subprocess.Popen[bytes]) -> None:
    """The whole group, also after its leader is gone: locust's workers are children of its own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
            child.wait(5)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    child.wait()


def read_rows(file: Path, out: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]
    except FileNotFoundError:
        raise DriveError(f"locust wrote no requests: {_last_words(out / 'locust.log')}") from None


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"nothing in {log}"


class _Drills:
    """Runs drills in time; `marks` says when each was."""

    def __init__(self, drills: tuple[Drill, ...]) -> None:
        self._drills = sorted(drills, key=lambda drill: drill.at_s)
        self.marks: list[tuple[float, str]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Drills:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        started = time.monotonic()
        for drill in self._drills:
            if self._stop.wait(max(0.0, started + drill.at_s - time.monotonic())):
                return
            self.marks.append((time.time(), drill.what))
            try:
                ended = subprocess.run(drill.command, capture_output=True, timeout=60, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                self.marks[-1] = (self.marks[-1][0], f"{drill.what} (did not run: {type(error).__name__})")
                continue
            if ended.returncode:
                self.marks[-1] = (self.marks[-1][0], f"{drill.what} (ended with {ended.returncode})")
