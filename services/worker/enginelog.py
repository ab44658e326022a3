"""What the engine prints: into a file that can't grow without bound, with the last lines kept for the reason of a failure."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

MAX_FILE_BYTES = 8 * 1024 * 1024
KEPT_LINES = 400
MAX_LINE_BYTES = 16 * 1024
STDOUT = "-"


class EngineLog:
    """Takes bytes as they come. The file is private (0600); a full one becomes `<name>.1`. The token never gets into it.

    The path `-` is our standard output, for containers, whose engine keeps and rotates it.
    """

    def __init__(self, path: Path | None, token: str, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = path
        self._secret = token.encode()
        self._max_file_bytes = max_file_bytes
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._file: BinaryIO | None = None
        self._rotates = path is not None and str(path) != STDOUT
        if path is not None and not self._rotates:
            self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        elif path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open(path)

    @staticmethod
    def _open(path: Path) -> BinaryIO:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)

    def feed(self, data: bytes) -> None:
        """Whole lines go on; the rest waits for its end, so that a token cut in two is still found."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._partial) > MAX_LINE_BYTES:
            self._take(self._partial)
            self._partial = b""

    def new_start(self, text: str) -> None:
        """Forget the lines of the last start, so that its reason is not taken for the next one's, and write a line of our own."""
        self.flush()
        self._lines.clear()
        self._write(f"--- {text}\n".encode())

    def flush(self) -> None:
        if self._partial:
            self._take(self._partial)
            self._partial = b""

    def lines(self) -> tuple[str, ...]:
        """The last lines since the last start."""
        return tuple(self._lines)

    def close(self) -> None:
        self.flush()
        if self._file:
            self._file.close()
            self._file = None

    def _take(self, line: bytes) -> None:
        # A progress bar redraws itself with \r; its last state is the line.
        clean = line.rstrip(b"\r").rpartition(b"\r")[2].replace(self._secret, b"***")[:MAX_LINE_BYTES]
        self._lines.append(clean.decode("utf8", "replace"))
        self._write(clean + b"\n")

    def _write(self, data: bytes) -> None:
        if self._file is None or self._path is None:
            return
        try:
            if self._rotates and self._file.tell() + len(data) > self._max_file_bytes:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._open(self._path)
            self._file.write(data)
        except OSError:  # a full disk must not stop an engine that runs; the last lines are kept in memory
            return
