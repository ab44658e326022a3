"""When requests are due in an open loop: the schedule is made before the run and does not wait for answers. Pure."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("poisson", "gamma", "constant", "trace")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is due `at_s` after the start. Token counts are the trace's own; None: the workload chooses."""

    index: int
    at_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class TraceError(ValueError):
    """A trace that can't be read; the message says which line and why."""


def schedule(kind: str, rate_rps: float, duration_s: float, seed: int, cv: float = 1.0) -> list[Arrival]:
    """All arrivals before `duration_s`.

    poisson: exponential gaps of mean 1/rate. gamma: the same mean, with `cv` the gaps' standard deviation over their mean (shape 1/cv²,
    scale cv²/rate), so cv 1 is Poisson, above it bursts, below it evenness. constant: every gap is 1/rate.
    Worked number: constant, 4/s, 1 s: arrivals at 0, 0.25, 0.5 and 0.75 s.
    """
    if rate_rps <= 0:
        raise ValueError("the rate must be above 0 requests/s")
    if kind not in KINDS[:3]:
        raise ValueError(f"arrivals must be one of {', '.join(KINDS)}")
    draw = random.Random(f"arrivals/{seed}")  # noqa: S311
    shape = 1 / (cv * cv) if cv > 0 else 0.0
    at = 0.0
    found: list[Arrival] = []
    while True:
        if kind == "constant" or cv == 0:
            at = len(found) / rate_rps
        elif kind == "gamma":
            at += draw.gammavariate(shape, 1 / (rate_rps * shape))
        else:
            at += draw.expovariate(rate_rps)
        if at >= duration_s:
            return found
        found.append(Arrival(len(found), at))


def share(arrivals: Iterable[Arrival], worker: int, workers: int) -> list[Arrival]:
    """What one of several load generators sends: every `workers`-th, so that together they send the whole schedule once."""
    return [arrival for arrival in arrivals if arrival.index % workers == worker]


def read_trace(lines: Iterable[str], duration_s: float, speed: float = 1.0) -> list[Arrival]:
    """A CSV with a header: `timestamp` in seconds, and where known `request tokens` and `response tokens` (BurstGPT's names; case and
    spaces do not matter). The first row is due at 0; `speed` 2 replays twice as fast. Rows after `duration_s` are left out."""
    rows = csv.DictReader(lines)
    names = {name.lower().replace(" ", "").replace("_", ""): name for name in rows.fieldnames or ()}
    when = names.get("timestamp")
    if when is None:
        raise TraceError("the trace has no column `timestamp`")
    found: list[Arrival] = []
    first: float | None = None
    for row in rows:
        try:
            moment = float(row[when])
            prompt, output = (_whole(row, names.get(name)) for name in ("requesttokens", "responsetokens"))
        except (TypeError, ValueError) as error:
            raise TraceError(f"line {rows.line_num} of the trace is not a row of numbers: {error}") from None
        first = moment if first is None else first
        at = (moment - first) / speed
        if at < 0:
            raise TraceError(f"line {rows.line_num} of the trace is earlier than its first row; sort it by timestamp")
        if at < duration_s:
            found.append(Arrival(len(found), at, prompt, output))
    if not found:
        raise TraceError("the trace has no row")
    return sorted(found, key=lambda arrival: arrival.at_s)


def _whole(row: dict[str, str], name: str | None) -> int | None:
    return int(float(row[name])) if name and row.get(name) else None
