"""One engine as a child process tree: started through the guard, its output taken, stopped for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from services.hardware.memory import process_tree
from services.worker.enginelog import EngineLog

GUARD = Path(__file__).with_name("guard.py")
KILL_PATIENCE_S = 8.0  # the guard's own 5 s to kill what is left, and some


class EngineProcess:
    """A running engine. `pid` is the engine's own, None until the guard has told it; `exited` is set the moment it is gone."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path, log: EngineLog, grace_s: float) -> None:
        """Starts it, with a temporary folder of its own that goes when it goes (engines leave sockets and rendezvous files behind at
        every start). That lies in the system's temporary folder: the path of a socket may have 107 characters only.

        Must run in the main thread: the kernel's death signal follows the thread that forked.
        Raises OSError when not even the guard can be started.
        """
        self.pid: int | None = None
        self.exited = asyncio.Event()
        self.code: int | None = None
        self._guard_was_killed = False
        self._log = log
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._scratch = tempfile.mkdtemp(prefix="rigserve-")
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(grace_s), self._scratch, *argv],
            env={**env, "TMPDIR": self._scratch}, cwd=cwd, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert self._guard.stdout
        assert self._guard.stderr
        self._told, self._output = self._guard.stdout.fileno(), self._guard.stderr.fileno()
        self._handle = os.pidfd_open(self._guard.pid)
        for fd in (self._told, self._output):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._told, self._on_pid)
        self._loop.add_reader(self._output, self._on_output)
        self._loop.add_reader(self._handle, self._on_exit)

    @property
    def tree(self) -> int:
        """The pid whose tree is the engine with all its helpers."""
        return self._guard.pid

    async def stop(self) -> None:
        """SIGTERM, the grace, then SIGKILL to whatever is left, grandchildren included. Returns when all of it is gone."""
        if not self.exited.is_set():
            self._guard.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.exited.wait(), self._grace_s + KILL_PATIENCE_S)
        if not self.exited.is_set():
            left = process_tree(self._guard.pid)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await self.exited.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._guard_was_killed and self.pid is not None:  # the engine died with it; its helpers are still in its session
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _on_pid(self) -> None:
        told = _read(self._told)
        if told and told.strip().isdigit():
            self.pid = int(told)
        self._loop.remove_reader(self._told)

    def _on_output(self) -> None:
        data = _read(self._output)
        if data:
            self._log.feed(data)
        elif data is not None:
            self._loop.remove_reader(self._output)

    def _on_exit(self) -> None:
        """The guard has ended, and with it everything below."""
        code = self._guard.wait()
        self.code = code if code >= 0 else 128 - code
        self._guard_was_killed = code < 0
        while data := _read(self._output):
            self._log.feed(data)
        self._log.flush()
        for fd in (self._told, self._output, self._handle):
            self._loop.remove_reader(fd)
        os.close(self._handle)
        for pipe in (self._guard.stdout, self._guard.stderr):
            if pipe:
                pipe.close()
        self.exited.set()


def _read(fd: int) -> bytes | None:
    """What is there to read; b"" at the end, None when there is nothing now."""
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return None
