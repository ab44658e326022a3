"""What sweeps of the load kit found: up to which rate a model kept its promises. From their `result.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 64 * 2**20


class KneeError(ValueError):
    """A file that holds no knee; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Knee:
    """Of one model. `knee_rps` None: even the lowest rate was too much. `saturated_rps` None: no rate that was tried was. `cards`: ids that
    the answers named while it was measured; empty: they named none. `report`: the file's folder and name, no whole path."""

    model: str
    knee_rps: float | None
    output_tok_s: float | None
    saturated_rps: float | None
    measured_at: str
    cards: tuple[str, ...]
    report: str


def read_knees(paths: Sequence[Path]) -> dict[str, Knee]:
    """By the model's name; of two of one model the later measured. Raises KneeError."""
    found: dict[str, Knee] = {}
    for path in paths:
        knee = read_knee(path)
        if knee.model not in found or knee.measured_at >= found[knee.model].measured_at:
            found[knee.model] = knee
    return found


def read_knee(path: Path) -> Knee:
    """Raises KneeError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise KneeError(f"--load-result {path}: the file is too large to be a result.json.")
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise KneeError(f"--load-result {path} can't be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise KneeError(f"--load-result {path} is not JSON; name the result.json that `sweep` of the load kit wrote.") from None
    if not isinstance(result, dict) or result.get("kind") != "sweep" or not isinstance(result.get("sweep"), dict):
        raise KneeError(f"--load-result {path} is no result of a sweep: it has no knee. Make one with `python -m loadtest sweep`.")
    bend, cards, kinds = result["sweep"], result.get("by_card"), result.get("by_kind")
    model = _model(result, set(kinds) if isinstance(kinds, dict) else set())
    if model is None:
        raise KneeError(f"--load-result {path}: the sweep is of several models at once, or says of none; sweep one model.")
    rps, tok_s, saturated_rps = figures = bend.get("knee_rps"), bend.get("knee_output_tok_s"), bend.get("saturated_rps")
    if any(figure is not None and not _is_rate(figure) for figure in figures) or not isinstance(result.get("started_at"), str):
        raise KneeError(f"--load-result {path} has no usable figures: knee_rps and saturated_rps must be numbers or null.")
    names = tuple(sorted(map(str, cards))) if isinstance(cards, dict) else ()
    return Knee(model, rps, tok_s, saturated_rps, result["started_at"], names, f"{path.absolute().parent.name}/{path.name}")


def _model(result: dict[str, Any], kinds: set[str]) -> str | None:
    """1. The only model that is named. 2. Of two the one that all requests were for. 3. None."""
    models = result.get("models")
    chat, image = (models.get("chat"), models.get("image")) if isinstance(models, dict) else (None, None)
    named = [name for name in (chat, image) if isinstance(name, str) and name]
    if len(named) < 2:  # 1
        return named[0] if named else None
    if not kinds or ("image" in kinds and len(kinds) > 1):  # 3
        return None
    return named[1] if kinds == {"image"} else named[0]  # 2


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9
