"""Two results side by side: what changed, how sure that is, and whether it got worse. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from loadtest import SCHEMA
from loadtest.figures import t_95

# (path in the result, whether more is better)
FIGURES = (
    ("output_tok_s", True), ("goodput", True), ("goodput_share", True), ("requests_per_s", True), ("images_per_s", True),
    ("ttft_s.p50", False), ("ttft_s.p95", False), ("tpot_s.p50", False), ("tpot_s.p95", False), ("e2e_s.p50", False), ("e2e_s.p95", False),
    ("image_s.p50", False), ("error_share", False), ("sweep.knee_rps", True),
)  # fmt: skip
SAME_LOAD = ("profile", "mode", "duration_s", "models")
SAME_SPEC = ("users", "shape", "rate_rps", "arrivals", "prompt_words", "output_tokens", "prefix_share")


@dataclass(frozen=True, slots=True)
class Row:
    """`change`: b / a − 1. `sure`: True where it can't be chance at 95 %, None where nothing tells."""

    figure: str
    a: float | None
    b: float | None
    change: float | None
    better: bool | None
    sure: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_results(path: Path) -> list[dict[str, Any]]:
    """A result.json, or a folder with some in it (repeated runs). Raises ValueError with a sentence."""
    files = sorted(path.rglob("result.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} has no result.json in it")
    found = []
    for file in files:
        try:
            result = json.loads(file.read_text(encoding="utf8"))
        except OSError as error:
            raise ValueError(f"{file} can't be read: {error.strerror or error}") from None
        except ValueError:
            raise ValueError(f"{file} is not JSON") from None
        if not isinstance(result, dict) or result.get("schema") != SCHEMA:
            raise ValueError(f"{file} is no result of this load test (schema {SCHEMA})")
        found.append(result)
    return found


def at(result: dict[str, Any], path: str) -> Any:
    """The figure at `ttft_s.p95`; None where there is none."""
    value: Any = result
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a figure that either side knows.

    1. Two runs or more on both sides: Welch's interval of the difference of the means; sure where it leaves out 0.
    2. Else the 95 % intervals inside the results; sure where they do not meet (stricter than 95 %).
    """
    rows = []
    for path, more_is_better in FIGURES:
        a, b = ([value for one in side if (value := at(one, path)) is not None] for side in (before, after))
        if not a and not b:
            continue
        mean_a, mean_b = fmean(a) if a else None, fmean(b) if b else None
        change = mean_b / mean_a - 1 if mean_a and mean_b is not None else None
        better = None if mean_a is None or mean_b is None or mean_a == mean_b else (mean_b > mean_a) == more_is_better
        sure = _welch(a, b) if min(len(a), len(b)) > 1 else _apart(_interval(before[0], path), _interval(after[0], path))
        rows.append(Row(path, mean_a, mean_b, change, better, sure))
    return rows


def _welch(a: Sequence[float], b: Sequence[float]) -> bool:
    """Worked number: 10, 11, 12 and 20, 21, 22: difference 10, error 0.816, 4 degrees of freedom, half width 2.27: sure."""
    parts = (variance(a) / len(a), variance(b) / len(b))
    total = sum(parts)
    if total == 0:
        return fmean(a) != fmean(b)
    freedom = total**2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    return abs(fmean(b) - fmean(a)) > t_95(freedom) * math.sqrt(total)


def _interval(result: dict[str, Any], path: str) -> list[float] | None:
    if path == "output_tok_s":
        return result.get("output_tok_s_ci95")
    name, _, percent = path.partition(".")
    return at(result, f"{name}.ci95.{percent}") if percent else None


def _apart(a: list[float] | None, b: list[float] | None) -> bool | None:
    return None if a is None or b is None else a[1] < b[0] or b[1] < a[0]


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What was not the same about the two loads, so that no one compares apples with pears unaware."""
    found = [name for name in SAME_LOAD if a.get(name) != b.get(name)]
    found += [name for name in SAME_SPEC if at(a, f"spec.{name}") != at(b, f"spec.{name}")]
    return found + [name for name in ("cpu", "cpu_cores_allowed") if at(a, f"environment.{name}") != at(b, f"environment.{name}")]


def regressions(rows: Sequence[Row], most: float) -> list[Row]:
    """What got worse by more than `most` (0.1 is 10 %) and may not be chance. A failure where there was none is always one."""
    return [
        row for row in rows
        if row.better is False and row.sure is not False and ((row.change is not None and abs(row.change) > most) or (not row.a and row.b))
    ]  # fmt: skip
