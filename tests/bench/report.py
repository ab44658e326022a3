"""The table of a benchmark run, as Markdown."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from typing import Protocol


class Row(Protocol):
    name: str
    missing: str | None
    problems: set[str]
    values: dict[str, list[float]]

    def median(self, figure: str) -> float | None: ...


OURS = "rigserve"
HEAD = """# Performance of the gateway

Made by `make bench`: every gateway in front of the same mock engine, in one run, round after round. Core 0 ran the gateway, core 1 the mock
engine and the load generator. **CPU time of the gateway's own process tree** is what is compared; wall-clock figures of a shared machine
move by a factor of two between rounds. rigserve ran with admission, context check, queue, routing, usage, counters, request log, deadlines,
back-pressure and cancellation on, and no keys made, so that no key was hashed; the peers with their defaults, round robin and no keys.

Plain: answers of 260 bytes, closed loop. Paced: {streams} streams of {chunks} events, one per 50 ms each, as decoding gives them. Flood: 64
streams whose events come as fast as the sockets take them. Every answer is checked: status, body, number of events, `[DONE]`.
litellm holds fewer streams: its paced figures are of 32, its time to first token too.

Resident memory counts every process of a gateway, shared pages in each.
"""


def write_report(table: Mapping[str, Row], given: argparse.Namespace, streams: int = 512, chunks: int = 80) -> str:
    parts = ([HEAD.format(streams=streams, chunks=chunks), _machine(given)], _table(table), _generator(table), _ratios(table))
    lines = [line for part in parts for line in (*part, "")]
    lines += [f"- {row.name} was left out: {row.missing}." for row in table.values() if row.missing]
    lines += [f"- {row.name}: {problem}." for row in table.values() for problem in sorted(row.problems)[:3]]
    text = "\n".join(lines).rstrip() + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf8")
    return text


def _machine(given: argparse.Namespace) -> str:
    minute, _, quarter = os.getloadavg()
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}; medians of {given.rounds} rounds of "
        f"{given.seconds:g} s.\nLoad average when it ended: {minute:.1f} over one minute, {quarter:.1f} over fifteen; "
        "the gateway under test and\nthe load generator account for 2 at most, the rest was other work on the same cores: it moves the "
        "wall-clock columns."
    )


def _table(table: Mapping[str, Row]) -> list[str]:
    direct = table["direct"]
    lines = [
        "| gateway | CPU µs/request | CPU µs/paced chunk | CPU µs/flood chunk | added ms p50, c=1 | added TTFT ms p50, 64 streams "
        "| requests/s, c=32 | MiB at 512 streams | errors | rounds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.values():
        if row.missing or not row.values:
            continue
        errors = sum(sum(values) for figure, values in row.values.items() if figure.endswith(" errors"))
        lines.append(
            f"| {row.name} | {_n(row.median('c32 cpu_us'))} | {_n(row.median('paced cpu_us'))} | {_n(row.median('flood cpu_us'))} "
            f"| {_ms(row, direct, 'c1 p50_s')} | {_ms(row, direct, 'ttft p50_s')} | {_n(row.median('c32 per_s'), 0)} "
            f"| {_n(row.median('resident_mib'), 0)} | {errors:.0f} "
            f"| {len(row.values.get('c32 per_s', ()))} |"
        )
    return lines


def _generator(table: Mapping[str, Row]) -> list[str]:
    """How we know that mock and generator are not what limits."""
    direct = table["direct"].median("c32 per_s")
    fastest = max((row.median("c32 per_s") or 0.0 for name, row in table.items() if name != "direct"), default=0.0)
    if not direct or not fastest:
        return []
    return [
        f"Mock engine and generator together, without a gateway, did {direct:,.0f} requests/s on their core; the fastest gateway "
        f"{fastest:,.0f}. The CPU figures do not depend on that: they count the gateway's own time only."
    ]


def _ratios(table: Mapping[str, Row]) -> list[str]:
    lines = ["| | against | CPU per request | CPU per paced chunk | CPU per flood chunk |", "|---|---|---|---|---|"]
    ours = [row for name, row in table.items() if name.startswith(OURS) and row.values]
    others = [row for name, row in table.items() if name != "direct" and not name.startswith(OURS) and row.values]
    for own in ours:
        for row in others:
            cells = [_ratio(own.median(figure), row.median(figure)) for figure in ("c32 cpu_us", "paced cpu_us", "flood cpu_us")]
            lines.append(f"| {own.name} | {row.name} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def _ratio(mine: float | None, other: float | None) -> str:
    return f"{mine / other:.2f}" if mine and other else "-"


def _n(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _ms(row: Row, direct: Row, figure: str) -> str:
    mine, base = row.median(figure), direct.median(figure)
    return "-" if row is direct or mine is None or base is None else f"{max(0.0, mine - base) * 1000:.2f}"
