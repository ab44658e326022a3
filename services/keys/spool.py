"""The file that holds usage while the database does not take it. Rewritten as a whole: sums don't grow with time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from services.keys.usage import Batch, read_batch

MAX_BYTES = 64 * 1024 * 1024


class Spool:
    """One file. It never raises: what it could not do, it says by False."""

    def __init__(self, path: Path, most_rows: int) -> None:
        self.path = path
        self._most_rows = most_rows

    def save(self, batches: Sequence[Batch]) -> bool:
        """These batches and no others, whole or not at all (0600)."""
        part = self.path.with_name(self.path.name + ".part")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf8") as file:
                json.dump([batch.to_json() for batch in batches], file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        return True

    def load(self) -> list[Batch] | None:
        """What an earlier gateway left; [] when there is nothing, None when it can't be read (it is put aside as .unreadable)."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            return [read_batch(value, self._most_rows) for value in json.loads(self.path.read_bytes())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError):
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_name(self.path.name + ".unreadable"))
            return None

    def clear(self) -> bool:
        """Nothing is left to keep."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            return False
        return True
