"""What a slow step tells whoever waits: one value, passed to a callable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

REPORT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a slow step.

    `stage` names the step in one word (check, download, verify, convert, venv, install ...) and stays the same while it runs.
    `done` and `total` count in the step's own unit, bytes unless `text` says otherwise; None where not known.
    `text` says for people what happens now; showing `done` and `total` is the reader's part.
    """

    stage: str
    done: int | None
    total: int | None
    text: str


ProgressSink = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The sink of a caller that shows nothing."""


class ByteMeter:
    """Counts the bytes of one stage and reports them a few times a second. `done` never passes `total`."""

    def __init__(self, sink: ProgressSink, stage: str, total_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._stage = stage
        self._total_bytes = total_bytes
        self._clock = clock
        self._done_bytes = 0
        self._moved_bytes = 0
        self._started_s = clock()
        self._reported_s = float("-inf")
        self._text = ""

    def say(self, text: str) -> None:
        """Report now, with a new text."""
        self._text = text
        self._report(text)

    def found(self, count_bytes: int) -> None:
        """Bytes that need no more work: they count as done, not for the speed. Negative: bytes that turned out to be worthless."""
        self._done_bytes += count_bytes

    def moved(self, count_bytes: int) -> None:
        """Bytes that were just read or fetched."""
        self._done_bytes += count_bytes
        self._moved_bytes += count_bytes
        if self._clock() - self._reported_s >= REPORT_EVERY_S:
            self._report(f"{self._text}, {self._speed_mib_per_s():.1f} MiB/s")

    def _speed_mib_per_s(self) -> float:
        return self._moved_bytes / max(self._clock() - self._started_s, 1e-3) / 2**20

    def _report(self, text: str) -> None:
        self._reported_s = self._clock()
        self._sink(Progress(self._stage, min(self._done_bytes, self._total_bytes), self._total_bytes, text))
