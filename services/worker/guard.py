"""The process between a worker and its engine. It leaves nothing alive, however the engine, the worker or a grandchild ends.

    python -I -S guard.py WORKER_PID GRACE_S SCRATCH_FOLDER COMMAND [ARGUMENT ...]

Standard library only, about 5 MB: it stays as long as the engine. What it does:

1. It becomes the reaper of every orphan below it (PR_SET_CHILD_SUBREAPER), and asks the kernel for SIGTERM when the worker dies
   (PR_SET_PDEATHSIG), even by SIGKILL.
2. It starts COMMAND in a session of its own, its stdout and stderr on our stderr, to be killed if the guard is; prints its pid.
3. On SIGTERM or SIGINT it passes SIGTERM to the engine alone (engines end their own helpers) and waits GRACE_S. When the worker
   is dead there is no grace: its successor needs the port and the memory.
4. When the engine has ended, or the grace is over, it kills every process below it, removes SCRATCH_FOLDER and exits with the
   engine's code (128 + n for signal n).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
KILL_PATIENCE_S = 5.0


def main(argv: list[str]) -> int:
    worker, grace_s, scratch, command = int(argv[0]), float(argv[1]), argv[2], argv[3:]
    libc = ctypes.CDLL(None)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    # 1
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != worker:
        return 128 + signal.SIGTERM  # it died before we could ask
    # 2
    engine = os.fork()
    if engine == 0:
        become(command, libc)
    os.write(1, b"%d\n" % engine)
    os.close(1)
    # 3, 4
    code = watch(engine, worker, grace_s)
    kill_all_below()
    shutil.rmtree(scratch, ignore_errors=True)
    return code


def become(command: list[str], libc: ctypes.CDLL) -> None:
    """In the child: never returns."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.dup2(2, 1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def watch(engine: int, worker: int, grace_s: float) -> int:
    """Until the engine has ended, the grace after a SIGTERM is over, or the worker is dead; the engine's exit code."""
    until: float | None = None
    while True:
        code = reap(engine)
        if code is not None:
            return code
        if os.getppid() != worker or (until is not None and time.monotonic() >= until):
            return 128 + signal.SIGKILL
        patience_s = 3600.0 if until is None else max(0.0, until - time.monotonic())
        got = signal.sigtimedwait(WATCHED, patience_s)
        if got and got.si_signo != signal.SIGCHLD and until is None:
            os.kill(engine, signal.SIGTERM)
            until = time.monotonic() + grace_s


def reap(engine: int) -> int | None:
    """Takes every ended child off the process table; the engine's code if it was among them."""
    code = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == engine:
                number = os.waitstatus_to_exitcode(ended[1])
                code = number if number >= 0 else 128 - number
    except ChildProcessError:
        pass
    return code


def kill_all_below() -> None:
    """SIGKILL to everything that still runs below us, again until nothing is left: a dying parent may have started one more."""
    until = time.monotonic() + KILL_PATIENCE_S
    while (left := below(os.getpid())) and time.monotonic() < until:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        signal.sigtimedwait(WATCHED, 0.05)
        reap(0)


def below(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for one in found:
        found.extend(children.get(one, []))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
