"""`make bench-routing`: who gets a request, the gateway's own queue beside other policies, on simulated cards. Writes docs/routing.md."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

from tests.bench.routing_page import page
from tests.bench.routing_run import MIXES, POLICIES, Case, Result, measure

LOADS = (0.5, 0.8, 0.95, 1.2)
SLOWER_LOADS = (0.5, 0.8)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "routing.md"


def cases(seeds: int, seconds: float) -> list[Case]:
    """Every mix, policy, load and seed; then, for each mix, its fastest and its middle card turning slow half-way."""
    steady = [Case(mix, load, policy, seed, seconds) for mix in MIXES for policy in POLICIES for load in LOADS for seed in range(seeds)]
    slower = [
        Case(mix, load, policy, seed, seconds, card)
        for mix in MIXES for policy in POLICIES for card in (0, len(MIXES[mix]) // 2) for load in SLOWER_LOADS for seed in range(seeds)
    ]  # fmt: skip
    return steady + slower


def measure_all(todo: list[Case], processes: int) -> list[Result]:
    with multiprocessing.Pool(processes) as pool:
        return pool.map(measure, todo, chunksize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds of each run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    todo = cases(args.seeds, args.seconds)
    started_s = time.monotonic()
    results = measure_all(todo, args.processes)
    text = page(results, args.seeds, args.seconds)
    args.out.write_text(text, encoding="utf8")
    print(f"{len(todo)} runs in {time.monotonic() - started_s:.0f} s; {args.out}")
    print(text[text.index("## Targets") : text.index("## What is compared")])


if __name__ == "__main__":
    main()
