"""One model loads at a time on a host: a lock on a file that all its workers share, across processes and containers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LoadLock:
    """One worker's claim. The kernel holds the lock (flock) and lets go of it when this process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file can't be opened or made."""
        # Reading is enough for flock, and all that another user's file allows; in a sticky folder the kernel even refuses O_CREAT for that
        # (fs.protected_regular), so it is asked for only when there is no file. Engines don't inherit it: Python opens with O_CLOEXEC.
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        self.held = False

    def take(self) -> bool:
        """Whether we hold it now; never waits. Raises OSError where the file system has no locks."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.held = True
        return True

    def release(self) -> None:
        """No-op when we don't hold it."""
        if self.held:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.held = False

    def close(self) -> None:
        self.release()
        os.close(self._fd)
