"""What power sweeps found, kept beside the calibration: power.json, one sweep for each card, the last one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from services.calibration.store import CalibrationError, default_path
from services.sizing.power import Point

FORMAT = "rigserve-power"
MAX_FILE_BYTES = 2**20
Name = Annotated[str, Field(max_length=256)]


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep of one card with one model. `keep`: the share of the fastest's speed below which it stopped."""

    card_id: Name
    name: Name
    model_id: Name
    measured_at: Name
    keep: float
    points: tuple[Point, ...]


_SWEEPS = TypeAdapter(tuple[Sweep, ...])


def power_path() -> Path:
    """Beside the calibration's own file."""
    return default_path().with_name("power.json")


def sweeps(path: Path) -> dict[str, Sweep]:
    """By card. A file that is not there holds none. Raises CalibrationError."""
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CalibrationError(f"{path} is too large to be a file of sweeps.")
        whole = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(whole, dict) or whole.get("format") != FORMAT:
            raise CalibrationError(f'{path} is no file of sweeps: it must say "format": "{FORMAT}". Move it away.')
        found = _SWEEPS.validate_json(json.dumps(whole.get("sweeps")))
    except (OSError, ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)[:200]
        raise CalibrationError(f"{path} can't be used: {why}. Move it away and sweep again.") from error
    if any(not (point.watts > 0 and point.tok_s >= 0 and point.cap_watts > 0) for sweep in found for point in sweep.points):
        raise CalibrationError(f"{path} holds a power or speed that can't be. Move it away and sweep again.")
    return {sweep.card_id: sweep for sweep in found}


def keep_sweep(path: Path, sweep: Sweep) -> None:
    """In place of the card's last one. Raises CalibrationError."""
    known = sweeps(path) | {sweep.card_id: sweep}
    text = json.dumps({"format": FORMAT, "sweeps": [asdict(one) for one in known.values()]}, indent=1) + "\n"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf8") as out:
            out.write(text)
        aside.replace(path)
    except OSError as error:
        raise CalibrationError(f"{path} can't be written: {error.strerror}") from error
