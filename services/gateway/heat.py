"""What the gateway makes of a worker's word on heat: how many of a placement's slots new requests may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Heat:
    """`share` of its slots below 1.0, why, and after how many seconds to ask again (None: not said)."""

    share: float
    reason: str
    retry_after_s: float | None


def heat_of(status: dict[str, Any]) -> Heat | None:
    """None: it may have all. A worker that says nothing of it, or nothing that can be read, is an older one: all."""
    said = status.get("intake")
    if not isinstance(said, dict):
        return None
    share, retry_s = said.get("share"), said.get("retry_after_s")
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < 1:
        return None
    known = isinstance(retry_s, int | float) and not isinstance(retry_s, bool) and 0 < retry_s < 3600
    return Heat(float(share), str(said.get("reason") or "its card is too hot"), float(retry_s) if known and retry_s is not None else None)


def hot_slots(slots: int, heat: Heat | None) -> int | None:
    """1. Cool, or unknown: None, all of them. 2. Too hot: 0. 3. Between: its share, at least one.

    Worked number: half of 5 slots are 2, half of 1 is 1.
    """
    if heat is None:  # 1
        return None
    return 0 if heat.share == 0 else max(1, int(slots * heat.share))  # 2, 3
