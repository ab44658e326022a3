"""A stream for the log that never holds anybody up: written by a thread of its own, and dropped, counted, where nobody takes it.

stderr may be a pipe that nobody reads, or a file on a full volume. Written from the event loop, the first would stop all requests once the
pipe is full (64 KiB on Linux). The thread writes to the descriptor itself: one that hung inside of Python's own buffered stderr would hold
its lock, which the interpreter waits for when it ends.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import TextIO

MOST_HELD = 4 * 1024 * 1024  # characters: some 10,000 lines
LAST_S = 1.0


def no_count(lines: int) -> None:
    """Counts nothing."""


class LateStream:
    """`write` never blocks and never fails. `dropped` is told how many lines were lost."""

    def __init__(self, stream: TextIO, dropped: Callable[[int], None] = no_count) -> None:
        self.dropped = dropped
        self._descriptor = stream.fileno()
        self._held = 0
        self._texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._writer.start()

    def write(self, text: str) -> int:
        if self._held > MOST_HELD:
            self.dropped(text.count("\n"))
        else:
            self._held += len(text)
            self._texts.put(text)
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread does."""

    def finish(self) -> None:
        """What is held is written, if somebody takes it soon."""
        self._texts.put(None)
        self._writer.join(LAST_S)

    def _write_all(self) -> None:
        while (text := self._texts.get()) is not None:
            try:
                data = text.encode(errors="backslashreplace")
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:  # a full volume, a closed pipe: no reason to stop serving
                self.dropped(text.count("\n"))
            self._held -= len(text)  # two threads: a rare miscount only moves the limit a little
