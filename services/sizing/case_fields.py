"""Reading a case's fields: numbers within what can be meant, text, or None where the case says nothing."""

from __future__ import annotations

import math
import re
from typing import Any

from services.sizing.cards import visible_bytes
from services.sizing.case_geometry import CaseError
from services.sizing.units import GIB

Case = dict[str, Any]


def number(case: Case, name: str, low: float, high: float) -> float | None:
    """A finite number between `low` and `high`, None when absent. Raises CaseError otherwise."""
    value = case.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CaseError(f'"{name}" must be a number.')
    if not low <= value <= high:
        raise CaseError(f'"{name}" is {value}; it must be between {low:g} and {high:g}.')
    return float(value)


def whole(case: Case, name: str, low: int, high: int) -> int | None:
    """The same for a whole number."""
    value = number(case, name, low, high)
    if value is not None and value != int(value):
        raise CaseError(f'"{name}" is {value}; it must be a whole number.')
    return int(value) if value is not None else None


def text(case: Case, name: str, default: str = "") -> str:
    """A string of at most 500 characters. Raises CaseError for another type."""
    value = case.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > 500:
        raise CaseError(f'"{name}" must be a short text.')
    return value


def flag(case: Case, name: str) -> bool:
    """true or false; absent is false."""
    value = case.get(name)
    if value is not None and not isinstance(value, bool):
        raise CaseError(f'"{name}" must be true or false.')
    return value is True


def card_gib(case: Case) -> float | None:
    """The card's memory as a driver gives it. A nominal figure (source "card name", a whole number) is cut to what is usually left."""
    total = number(case, "gpu_vram_gib", 0.25, 4096)
    if total is None or not text(case, "vram_source").startswith("card name") or total != int(total):
        return total
    return visible_bytes(int(total * GIB)) / GIB


def held_by_others_gib(case: Case) -> float:
    """What the card's description says other programs hold ("other service holds 4.79GiB", "compositor 1.2 GB"); a Windows desktop (WSL)
    without a figure holds about 0.8 GiB; else 0."""
    described = text(case, "gpu")
    match = re.search(r"(?:holds?|compositor)\s+(?:about\s+|~)?(\d+(?:\.\d+)?)\s*Gi?B", described)
    if match:
        return float(match[1])
    return 0.8 if re.search(r"\bWSL2?\b|\bWindows\b", described) else 0.0
