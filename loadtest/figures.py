"""Percentiles, intervals and the other figures. Pure; standard library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

PERCENTS = (50, 90, 95, 99)
Z_95 = 1.959964
# Two-sided 95 % of Student's t by degrees of freedom, 1 to 30 (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
        2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks, as numpy's default. `ordered` ascends. Worked number: of 1, 2, 3, 4 the 50th is 2.5."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interval_of_percentile(ordered: Sequence[float], percent: float) -> list[float] | None:
    """A 95 % interval from order statistics: ranks n·p ± 1.96·√(n·p·(1−p)), no distribution assumed, requests taken as independent
    (Hahn and Meeker, Statistical Intervals, 5.2). None where the ranks lie outside of the sample. Worked number: of 100 values the
    median's ranks are 40.2 and 59.8, rounded outwards: the 40th and the 61st value."""
    n, part = len(ordered), percent / 100
    spread = Z_95 * math.sqrt(n * part * (1 - part))
    low, high = math.floor(n * part - spread), math.ceil(n * part + spread) + 1
    if low < 1 or high > n:
        return None
    return [rounded(ordered[low - 1]), rounded(ordered[high - 1])]


def interval_of_mean(values: Sequence[float]) -> list[float] | None:
    """Student's 95 % interval; None for fewer than 2 values."""
    if len(values) < 2:
        return None
    half = t_95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    middle = fmean(values)
    return [rounded(middle - half), rounded(middle + half)]


def t_95(freedom: float) -> float:
    """Between the table's rows linear; above 30 degrees the normal's, corrected: z + (z³ + z)/(4·f), right to 0.003."""
    if freedom > len(T_95):
        return Z_95 + (Z_95**3 + Z_95) / (4 * freedom)
    low = max(1, math.floor(freedom))
    high = min(low + 1, len(T_95))
    return T_95[low - 1] + (T_95[high - 1] - T_95[low - 1]) * (max(1.0, freedom) - low)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """p50 to p99, mean, the 95 % intervals of p50 and p95, n. Every figure is None for n 0."""
    ordered = sorted(values)
    found: dict[str, Any] = {f"p{percent}": rounded(percentile(ordered, percent)) for percent in PERCENTS}
    found |= {"mean": rounded(fmean(ordered)) if ordered else None, "max": rounded(ordered[-1]) if ordered else None, "n": len(ordered)}
    return found | {"ci95": {f"p{percent}": interval_of_percentile(ordered, percent) for percent in (50, 95)}}


def curve(values: Sequence[float], points: int = 101) -> list[float]:
    """The distribution as evenly spaced quantiles from the least to the greatest; empty for no value."""
    ordered = sorted(values)
    return [rounded(percentile(ordered, 100 * i / (points - 1))) for i in range(points)] if ordered else []


def rounded(value: float | None) -> Any:
    return None if value is None else round(value, 6)


def overlap_tokens(first_s: float, last_s: float, tokens: int, from_s: float, to_s: float) -> float:
    """How many of a stream's tokens fell between two moments, taken as evenly spaced from its first to its last.
    Worked number: 11 tokens from 0 s to 1 s: 6 of them lie in 0 s to 0.55 s (at 0, 0.1, ... 0.5)."""
    if tokens <= 0 or last_s < from_s or first_s >= to_s:
        return 0.0
    if tokens == 1 or last_s <= first_s:
        return float(tokens) if from_s <= last_s < to_s else 0.0
    step = (last_s - first_s) / (tokens - 1)
    low = max(0, math.ceil((from_s - first_s) / step - 1e-9))
    high = min(tokens - 1, math.ceil((to_s - first_s) / step - 1e-9) - 1)
    return float(max(0, high - low + 1))
