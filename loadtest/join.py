"""The client's tokens beside the server's own count. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.exposition import ServerCounts
from loadtest.figures import rounded
from loadtest.record import Record

TOLERANCE = 0.01


def joined(everything: Sequence[Record], before: ServerCounts, after: ServerCounts) -> dict[str, Any]:
    """Output and prompt tokens of the whole run, warm-up included, client against server.

    `agree`: within 1 %. None where it can't be known: the server tells no count, or requests ended without a usage (left, broken, still
    running), whose tokens only the server knows. Other clients' requests in the same time are in the server's count.
    """
    text = [one for one in everything if one.kind not in ("image", "embeddings")]
    unknown = sum(1 for one in text if one.tokens_source != "usage" and one.ending not in ("refused", "shed"))
    found: dict[str, Any] = {"source": after.source, "requests_without_usage": unknown}
    agree: list[bool] = []
    for name in ("output_tokens", "prompt_tokens"):
        client = sum(getattr(one, name) or 0 for one in everything if one.tokens_source == "usage" or one.prompt_tokens is not None)
        server = _grown(getattr(before, name), getattr(after, name))
        off = (server - client) / client if server is not None and client else None
        found[name] = {"client": client, "server": server, "difference": rounded(off)}
        if off is not None:
            agree.append(abs(off) <= TOLERANCE)
    known = agree and not unknown
    found["agree"] = all(agree) if known else None
    found["note"] = None if known else _why(after, unknown)
    found["output_tokens_by_card"] = _cards(before.output_by_card, after.output_by_card)
    found["joules_by_card"] = _cards(before.joules_by_card, after.joules_by_card)
    return found


def _why(after: ServerCounts, unknown: int) -> str:
    if after.source is None:
        return "the server tells no token count at /metrics"
    return f"{unknown} requests ended without usage; their tokens only the server knows" if unknown else "no token was counted"


def _grown(before: float | None, after: float | None) -> float | None:
    """None where the server restarted in between: its count fell."""
    if after is None or (before or 0.0) > after:
        return None
    return after - (before or 0.0)


def _cards(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float] | None:
    if after is None:
        return None
    grown = {card: _grown((before or {}).get(card), value) for card, value in after.items()}
    return {card: round(value, 3) for card, value in grown.items() if card and value is not None}
