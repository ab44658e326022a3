"""A run cut into equal pieces of time, for the plots. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.figures import overlap_tokens, percentile, rounded
from loadtest.record import Record
from loadtest.slo import Slo

MOST_BINS = 120


def bin_s(duration_s: float) -> float:
    """At least a second each, at most MOST_BINS of them."""
    return max(1.0, duration_s / MOST_BINS)


def timeline(
    records: Sequence[Record], skipped_s: Sequence[float], power: Sequence[tuple[float, dict[str, float]]],
    start_unix_s: float, duration_s: float, slo: Slo,
) -> list[dict[str, Any]]:  # fmt: skip
    """One dict a piece. Requests count where they were due, tokens where they came, failures where they ended."""
    width = bin_s(duration_s)
    pieces = [_piece(i * width) for i in range(max(1, round(duration_s / width)))]
    for record in records:
        due = record.started_unix_s - start_unix_s
        if (piece := _at(pieces, due, width)) is not None:
            piece["offered"] += 1
            piece["good"] += slo.good(record)
            if record.first_s is not None and record.streamed:
                piece["ttfts"].append(record.first_s)
        if (piece := _at(pieces, due + record.end_s, width)) is not None:
            piece[record.ending] += 1
            piece["images"] += record.images or 0
        _spread(pieces, record, due, width)
    for moment in skipped_s:
        if (piece := _at(pieces, moment - start_unix_s, width)) is not None:
            piece["offered"] += 1
            piece["skipped"] += 1
    for moment, watts in power:
        if (piece := _at(pieces, moment - start_unix_s, width)) is not None:
            for card, value in watts.items():
                piece["watts"].setdefault(card, []).append(value)
    return [_finished(piece, width) for piece in pieces]


def _piece(at_s: float) -> dict[str, Any]:
    counts = dict.fromkeys(("offered", "good", "ok", "refused", "shed", "failed", "cancelled", "unfinished", "skipped", "images"), 0)
    return {"t_s": rounded(at_s), **counts, "in_flight_s": 0.0, "tokens": {}, "ttfts": [], "watts": {}}


def _at(pieces: list[dict[str, Any]], moment_s: float, width: float) -> dict[str, Any] | None:
    number = int(moment_s // width)
    return pieces[number] if 0 <= number < len(pieces) else None


def _spread(pieces: list[dict[str, Any]], record: Record, due_s: float, width: float) -> None:
    """What lasts: tokens as they came, and that the request was in flight."""
    low, high = int(max(0.0, due_s) // width), int(max(0.0, due_s + record.end_s) // width)
    for number in range(low, min(high, len(pieces) - 1) + 1):
        from_s, to_s = number * width, (number + 1) * width
        pieces[number]["in_flight_s"] += max(0.0, min(to_s, due_s + record.end_s) - max(from_s, due_s))
        came = tokens_between(record, from_s - due_s, to_s - due_s)
        if came:
            card = record.card or ""
            pieces[number]["tokens"][card] = pieces[number]["tokens"].get(card, 0.0) + came


def tokens_between(record: Record, from_s: float, to_s: float) -> float:
    """Of one request, seconds counted from when it was due. An answer in one piece brings all of its tokens at its end."""
    if not record.output_tokens:
        return 0.0
    if not record.streamed or record.first_s is None or record.last_s is None:
        return float(record.output_tokens) if from_s <= record.end_s < to_s else 0.0
    return overlap_tokens(record.first_s, record.last_s, record.output_tokens, from_s, to_s)


def _finished(piece: dict[str, Any], width: float) -> dict[str, Any]:
    tokens, watts, ttfts = piece.pop("tokens"), piece.pop("watts"), sorted(piece.pop("ttfts"))
    piece["in_flight"] = round(piece.pop("in_flight_s") / width, 2)
    piece["output_tok_s"] = round(sum(tokens.values()) / width, 3)
    piece["ttft_p50_s"] = rounded(percentile(ttfts, 50))
    piece["output_tok_s_by_card"] = {card: round(value / width, 3) for card, value in tokens.items() if card}
    piece["watts_by_card"] = {card: round(sum(values) / len(values), 1) for card, values in watts.items()}
    return piece
