"""Finds a server's knee: one request at a time, then as many as it takes, then rates between the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.drive import DriveError, run
from loadtest.knee import Point, knee, over_saturated, point_of, rates_between
from loadtest.slo import Slo
from loadtest.spec import Spec

Say = Callable[[str], None]


def sweep(spec: Spec, out: Path, slo: Slo, points: int, most_users: int, processes: int, say: Say, rates: tuple[float, ...] = (),
          calibration: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    """The result of the run at the knee (else of the slowest rate) with `sweep` in it: every point, and the knee.

    1. synchronous: a closed loop of one user; its answers per second are the slowest rate.
    2. throughput: a closed loop of `most_users`; its answers per second are the most the server can do.
    3. `points` open-loop rates between, ascending, each with a seed of its own; stops after two saturated ones in a row.
    """
    found: list[Point] = []
    results: list[dict[str, Any]] = []

    def measure(name: str, label: str, one: Spec) -> dict[str, Any]:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        result = run(one, folder, slo, processes, calibration=calibration)
        found.append(point_of(result, label, name))
        results.append(result)
        p95 = result["ttft_s"]["p95"]
        say(f"{name}: {result['offered_per_s']:.2f} requests/s offered, {result['goodput'] or 0:.2f} good, "
            f"{result['output_tok_s'] or 0:.1f} tok/s, TTFT p95 {'unknown' if p95 is None else f'{p95:.3f} s'}")  # fmt: skip
        return result

    slowest = measure("synchronous", "synchronous", dataclasses.replace(spec, rate_rps=None, users=1))  # 1
    if not slowest["ok"]:
        reason = slowest["errors"][0]["reason"] if slowest["errors"] else f"none ended in {spec.duration_s:g} s; use a longer --duration"
        raise DriveError(f"No request was answered one at a time, so there is nothing to sweep: {reason}")
    fastest = measure("throughput", "throughput", dataclasses.replace(spec, rate_rps=None, users=most_users))  # 2
    wanted = list(rates) or rates_between(slowest["requests_per_s"], fastest["requests_per_s"], points)
    for number, rate in enumerate(sorted(wanted)):  # 3
        measure(f"rate-{number + 1}", "rate", dataclasses.replace(spec, rate_rps=rate, seed=spec.seed + number + 1))
        if over_saturated(found):
            say("two rates in a row are past saturation: higher ones are left out")
            break
    bend = knee(found)
    chosen = next((i for i, point in enumerate(found) if point.label == "rate" and point.offered_rps == bend["knee_rps"]), 2)
    return results[chosen] | {"kind": "sweep", "sweep": {"points": [point.to_json() for point in found], **bend}}
