"""The SQLite file of observations: one row for each key, the JSON of its observation. Several workers may write at once."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from services.calibration.record import HERE, Observation, ObservationError, observations_of

SCHEMA = 1
WAIT_S = 2.0  # for another worker's lock


class CalibrationError(Exception):
    """The file can't be used. The message says which and why."""


def default_path() -> Path:
    """$RIGSERVE_CALIBRATION, else $XDG_STATE_HOME/rigserve/calibration.db."""
    if named := os.environ.get("RIGSERVE_CALIBRATION"):
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "rigserve" / "calibration.db"


class Store:
    """One file; opened anew for every act, so that none is held while an engine runs for weeks. Raises CalibrationError in all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Observation]:
        """Every observation, by card, model and time. A file that is not there holds none, and is not made."""
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = [json.loads(text) for (text,) in database.execute("SELECT observation FROM observations")]
        try:
            found = observations_of(rows)
        except ObservationError as error:
            raise CalibrationError(f"{self.path}: {error} Move it away; measuring starts anew.") from error
        return sorted(found, key=lambda one: (one.card_kind, one.card_id, one.model_id, one.variant_id, one.measured_at))

    def add(self, observation: Observation) -> None:
        """One more run of this machine: the highest peaks of all its runs stay, speeds and times are the last run's."""
        self._merge([observation], one_more_run)

    def take_in(self, observations: Iterable[Observation], origin: str) -> int:
        """Another rig's observations; the same file twice changes nothing. Returns how many there were. What was measured here stays."""
        others = [replace(one, origin=origin) for one in observations]
        self._merge(others, same_or_newer)
        return len(others)

    def _merge(self, observations: Iterable[Observation], merged: Callable[[Observation, Observation], Observation]) -> None:
        with self._open() as database:
            for one in observations:
                row = database.execute("SELECT observation FROM observations WHERE key = ?", (one.key,)).fetchone()
                kept = merged(observations_of([json.loads(row[0])])[0], one) if row else one
                database.execute("INSERT OR REPLACE INTO observations VALUES (?, ?)", (one.key, json.dumps(asdict(kept))))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction on a file that is made where it is missing (0600)."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            database = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
            try:
                database.execute("PRAGMA trusted_schema=OFF")
                database.execute("BEGIN IMMEDIATE")
                _prepare(database, self.path)
                yield database
                database.execute("COMMIT")
            finally:
                database.close()  # what was not committed is rolled back
        except (sqlite3.Error, OSError, ObservationError) as error:
            raise CalibrationError(f"{self.path} can't be used as calibration: {error}") from error


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA):
        raise CalibrationError(f"{path} has the schema {version}; this rigserve knows {SCHEMA}.")
    if version == 0:
        database.execute("CREATE TABLE IF NOT EXISTS observations (key TEXT PRIMARY KEY, observation TEXT NOT NULL)")
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def one_more_run(known: Observation, new: Observation) -> Observation:
    """Peaks only grow; where this run measured no speed, the last known stays. Another rig's row gives way to ours."""
    if known.origin != HERE:
        return new
    return replace(
        new, runs=known.runs + 1, peak_bytes=_larger(known.peak_bytes, new.peak_bytes),
        host_peak_bytes=_larger(known.host_peak_bytes, new.host_peak_bytes), load_s=new.load_s or known.load_s,
        tok_s=new.tok_s or known.tok_s, images_per_min=new.images_per_min or known.images_per_min,
    )  # fmt: skip


def same_or_newer(known: Observation, other: Observation) -> Observation:
    """What was measured here stays; of two from elsewhere the newer, with the higher peak of both."""
    if known.origin == HERE:
        return known
    newer = other if other.measured_at >= known.measured_at else known
    return replace(newer, peak_bytes=_larger(known.peak_bytes, other.peak_bytes), runs=max(known.runs, other.runs))


def _larger(one: int | None, other: int | None) -> int | None:
    known = [size for size in (one, other) if size is not None]
    return max(known) if known else None
