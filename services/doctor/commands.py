"""Asking other programs, bounded in time and in what they may say; and any other look that a broken driver may hang."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.doctor.readings import Unread

NOT_THERE = 127  # as shells say it
TIMEOUT_S = 8.0
MAX_TEXT = 16 * 2**20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Output:
    """How a program ended. code NOT_THERE: no such program."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """Its last line of complaint, for people."""
        lines = (self.err or self.out).strip().splitlines()
        return lines[-1].strip()[:300] if lines else f"exit code {self.code}, no message"


Run = Callable[[tuple[str, ...]], Output | Unread]


def run(argv: tuple[str, ...], timeout_s: float = TIMEOUT_S) -> Output | Unread:
    """Run a program that only reads. Never raises: one that isn't there has code NOT_THERE, one that hangs is killed and Unread."""
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, start_new_session=True
        )
    except FileNotFoundError:
        return Output(NOT_THERE, "", f"{argv[0]}: not found")
    except OSError as error:
        return Unread(f"{argv[0]}: {error.strerror}")
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(child)
        return Unread(f"{' '.join(argv[:2])} did not end within {timeout_s:.0f} s")
    return Output(child.returncode, out[-MAX_TEXT:].decode("utf8", "replace"), err[-MAX_TEXT:].decode("utf8", "replace"))


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started. One that is stuck inside a driver can't be killed; it is left behind rather than waited for."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdout, child.stderr):
        if pipe:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        child.wait(1.0)


class Look(Generic[T]):
    """A reading under way in a thread of its own, so that a hung driver or a dead network mount costs its own time only."""

    def __init__(self, what: str, work: Callable[[], T]) -> None:
        self._what = what
        self._work = work
        self._found: T | Unread | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._do, name=f"doctor: {what}", daemon=True)
        self._thread.start()

    def _do(self) -> None:
        try:
            self._found = self._work()
        except Exception as error:  # noqa: BLE001 - the border of a thread: carried to `result`, which raises it where it is asked for
            self._error = error

    def result(self, timeout_s: float) -> T | Unread:
        """What was read; Unread when it isn't there in time."""
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive() or self._found is None:
            return Unread(f"{self._what} did not answer within {timeout_s:.0f} s")
        return self._found
