"""The last minutes of every card and model, a figure per few seconds: what a line is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.gateway.backends import Backend
from services.gateway.core import Gateway
from services.gateway.throughput import Sum

BUCKET_S = 5
BUCKETS = 60
COLUMNS = {"output_tokens_per_s": Sum.OUTPUT_TOKENS, "denoise_steps_per_s": Sum.DENOISE_STEPS}


def history(gateway: Gateway, now: float) -> dict[str, Any]:
    """The JSON of `GET /v1/throughput/history`. A figure is None before the gateway's start, and 0 where nothing was counted since.

    Tokens are counted when their request ends, for the seconds in which they came: the last figures grow as long requests end.
    """
    directory, plan = gateway.directory, gateway.plan
    lines = {backend.id: _line(gateway, [backend], now) for backend in directory.backends}
    return {
        "object": "throughput_history", "bucket_s": BUCKET_S, "ends_s_ago": round(now % BUCKET_S, 3),
        "cards": [
            {"id": card.id} | _sum([lines[backend.id] for backend in directory.backends if backend.card is card])
            for card in (plan.cards if plan else ())
        ],
        "models": [{"id": served.id} | _sum([lines[b.id] for b in served.backends]) for served in directory.models.values()],
        "backends": [{"id": ident} | line for ident, line in lines.items()],
    }


Line = dict[str, list[float | None]]


def _line(gateway: Gateway, backends: Sequence[Backend], now: float) -> Line:
    """Per second, of whole buckets only; None for a bucket that began before the gateway did."""
    begins = [(int(now) // BUCKET_S - BUCKETS + number) * BUCKET_S for number in range(BUCKETS)]
    rings = [gateway.throughput.series_of(backend).ring for backend in backends]
    found: Line = {}
    for name, column in COLUMNS.items():
        sums = [ring.buckets(BUCKET_S, BUCKETS, now, column) for ring in rings]
        totals = [sum(values) / BUCKET_S for values in zip(*sums, strict=True)]
        known = (begin + BUCKET_S > gateway.started_s for begin in begins)
        found[name] = [round(total, 3) if is_known else None for is_known, total in zip(known, totals, strict=True)]
    return found


def _sum(lines: Sequence[Line]) -> Line:
    """Of nothing: nothing was counted, as no engine is there that could; None throughout."""
    if not lines:
        return {name: [None] * BUCKETS for name in COLUMNS}
    return {name: [_added(values) for values in zip(*(line[name] for line in lines), strict=True)] for name in COLUMNS}


def _added(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known else None
