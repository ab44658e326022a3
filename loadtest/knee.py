"""What a sweep of offered rates says: where the server's knee is, and when to stop. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

GOOD_SHARE = 0.99
SATURATED_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Point:
    """One offered rate and what came of it."""

    offered_rps: float
    goodput_rps: float
    good_share: float
    output_tok_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_p50_s: float | None
    e2e_p50_s: float | None
    label: str = "rate"
    failures: int = 0
    n: int = 0
    folder: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def point_of(result: dict[str, Any], label: str, folder: str | None = None) -> Point:
    return Point(
        result["offered_per_s"], result["goodput"] or 0.0, result["goodput_share"] or 0.0, result["output_tok_s"],
        result["ttft_s"]["p50"], result["ttft_s"]["p95"], result["tpot_s"]["p50"], result["e2e_s"]["p50"], label,
        result["failures"], result["requests"], folder,
    )  # fmt: skip


def knee(points: Sequence[Point]) -> dict[str, Any]:
    """Where it bends.

    1. `knee_rps`: the highest offered rate at which at least 99 % of the requests were good, with no lower rate below that.
    2. `saturated_rps`: the lowest offered rate at which goodput fell below 95 % of what was offered; None: not reached.
    3. `peak_goodput_rps`: the most good requests a second at any rate.
    Only open-loop points count: a closed loop offers no more than is answered.
    Worked number: shares 1, 1, 0.97, 0.6 at 1, 2, 3, 4 requests/s: knee 2, saturated 4.
    """
    rates = sorted((point for point in points if point.label == "rate"), key=lambda point: point.offered_rps)
    best = None
    for point in rates:  # 1
        if point.good_share < GOOD_SHARE:
            break
        best = point
    saturated = next((point for point in rates if point.good_share < SATURATED_SHARE), None)  # 2
    return {
        "knee_rps": best.offered_rps if best else None, "knee_output_tok_s": best.output_tok_s if best else None,
        "saturated_rps": saturated.offered_rps if saturated else None,
        "peak_goodput_rps": max((point.goodput_rps for point in rates), default=None),  # 3
    }


def rates_between(slowest_rps: float, fastest_rps: float, count: int) -> list[float]:
    """`count` rates evenly from one-at-a-time to just above what the server can do at most. Worked number: 1, 3, 3: 1, 2.1, 3.3
    rounded to three digits (the last is 10 % above the most, so that saturation is seen)."""
    top = max(fastest_rps * 1.1, slowest_rps * 1.1)
    if count == 1:
        return [round(top, 3)]
    return [round(slowest_rps + (top - slowest_rps) * i / (count - 1), 3) for i in range(count)]


def over_saturated(points: Sequence[Point]) -> bool:
    """Two rates in a row below 95 %: higher ones only fill the queue more."""
    rates = [point for point in points if point.label == "rate"]
    return len(rates) >= 2 and all(point.good_share < SATURATED_SHARE for point in rates[-2:])
