"""`make bench-swap`: which models stay in memory, the gateway's own decision beside other policies, on simulated cards. Writes
docs/swapping.md; exit code 1 when rigserve does not beat LRU by count, in swaps and in total time, wherever there is more to do than to
wait for."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

from tests.bench.swap_page import LRU, OURS, page
from tests.bench.swap_run import LOADS, POLICIES, RIGS, TRAFFIC, Case, Result, measure

PAGE = Path(__file__).resolve().parents[2] / "docs" / "swapping.md"
HELD = ("backlog", "busy")


def cases(seeds: int) -> list[Case]:
    return [
        Case(rig, traffic, load, policy, seed)
        for rig in RIGS for traffic in TRAFFIC for load in LOADS for policy in POLICIES for seed in range(seeds)
    ]  # fmt: skip


def lost(results: list[Result]) -> list[str]:
    """Where the means are not both lower than LRU by count's, whatever its count."""
    found = []
    for rig in RIGS:
        for traffic in TRAFFIC:
            for load in HELD:
                of = {name: [r for r in results if (r.case.rig, r.case.traffic, r.case.load, r.case.policy) == (rig, traffic, load, name)]
                      for name in (OURS, *LRU)}  # fmt: skip
                swaps = {name: statistics.mean(r.swaps for r in some) for name, some in of.items()}
                total_s = {name: statistics.mean(r.total_s for r in some) for name, some in of.items()}
                if any(swaps[OURS] >= swaps[name] or total_s[OURS] > total_s[name] for name in LRU):
                    found.append(f"{rig}, {traffic}, {load}: swaps {swaps}, total {total_s}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    todo = cases(args.seeds)
    started_s = time.monotonic()
    with multiprocessing.Pool(args.processes) as pool:
        results = pool.map(measure, todo, chunksize=4)
    text = page(results, args.seeds)
    args.out.write_text(text, encoding="utf8")
    print(f"{len(todo)} runs in {time.monotonic() - started_s:.0f} s; {args.out}")
    print(text[text.index("## Against") : text.index("## All policies")])
    missed = lost(results)
    print("\n".join(missed))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
