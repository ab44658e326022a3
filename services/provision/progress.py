"""What a slow step tells whoever waits: one value, passed to a callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a slow step.

    `stage` names the step in one word (check, download, verify, convert, venv, install ...) and stays the same while it runs.
    `done` and `total` count in the step's own unit, bytes unless `text` says otherwise; None where not known.
    `text` is a line for people, complete by itself.
    """

    stage: str
    done: int | None
    total: int | None
    text: str


ProgressSink = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The sink of a caller that shows nothing."""
