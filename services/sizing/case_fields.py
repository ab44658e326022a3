"""Reading a case's fields: numbers within what can be meant, text, or None where the case says nothing."""

from __future__ import annotations

import math
import re
from typing import Any

from services.sizing.cards import visible_bytes
from services.sizing.case_geometry import CaseError
from services.sizing.units import GIB

Case = dict[str, Any]
LORA_RANK = 64  # the default of the notebooks (Unsloth) that serve with LoRA and don't say the rank
_NUMBER = re.compile(r"\s*([+-]?\d[\d,]{0,17}(?:\.\d{1,12})?)\s*(?:GiB|GB|tokens?)?\s*", re.IGNORECASE | re.ASCII)
_FLAGS = {"": False, "false": False, "no": False, "off": False, "0": False, "true": True, "yes": True, "on": True, "1": True}


def number(case: Case, name: str, low: float, high: float) -> float | None:
    """A finite number between `low` and `high`, also when it is written as text ("24", "22.5 GiB"); None when absent. Raises CaseError
    otherwise.
    """
    value = case.get(name)
    if isinstance(value, str):
        written = _NUMBER.fullmatch(value)
        value = float(written[1].replace(",", "")) if written else (None if not value.strip() else value)
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


def tokens(case: Case, name: str, high: int) -> int | None:
    """A count of tokens; "8k" is 8 x 1024."""
    value = case.get(name)
    thousands = re.fullmatch(r"\s*(\d{1,5})\s*[kK]\s*", value) if isinstance(value, str) else None
    return whole({name: int(thousands[1]) * 1024} if thousands else case, name, 1, high)


def share(case: Case, name: str) -> float | None:
    """A share of 1, also in percent ("90%", 90)."""
    value = case.get(name)
    if isinstance(value, str) and value.strip().endswith("%"):
        percent = number({name: value.strip()[:-1]}, name, 1.0, 100.0)
        return None if percent is None else percent / 100
    given = number(case, name, 0.01, 100.0)
    if given is not None and 1 < given < 10:
        raise CaseError(f'"{name}" is {given}; it must be between 0.01 and 1.')
    return given / 100 if given is not None and given > 1 else given


def pixels(case: Case) -> tuple[int, int] | None:
    """(width, height) of "1024x768", "1024*768", "1024" (square), 1024 or [1024, 768]; None where the case names none ("n/a"). Raises
    CaseError.
    """
    value = case.get("resolution")
    if isinstance(value, list | tuple) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    value = "1024x1024" if value is None else str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    written = text({"resolution": value}, "resolution", "n/a").lower()
    if written == "n/a":
        return None
    match = re.fullmatch(r"\s*(\d{1,5})\s*(?:px)?\s*(?:[x×*]\s*(\d{1,5}))?(?:\s*[x×*]\s*\d{1,5})?\s*(?:px|pixels)?\s*", written)
    if match is None or "0" in (match[1].lstrip("0") or "0", (match[2] or "1").lstrip("0") or "0"):
        raise CaseError(f'"resolution" is "{written[:40]}"; write it like 1024x1024.')
    return int(match[1]), int(match[2] or match[1])


def text(case: Case, name: str, default: str = "") -> str:
    """A string of at most 500 characters; a version may be a number (0.28). Raises CaseError for another type."""
    value = case.get(name)
    if value is None:
        return default
    if name == "engine_version" and isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value}"
    if not isinstance(value, str) or len(value) > 500:
        raise CaseError(f'"{name}" must be a short text.')
    return value if value.strip() else default


def flag(case: Case, name: str) -> bool:
    """true or false, also as 0 and 1 or as text; absent is false."""
    value = case.get(name)
    value = _FLAGS.get(value.strip().lower(), value) if isinstance(value, str) else value
    if value is None or value in (0, 1):
        return bool(value)
    raise CaseError(f'"{name}" must be true or false.')


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
    return 0.8 if on_windows(case) else 0.0


def on_windows(case: Case) -> bool:
    """Does the card's description say that Windows drives it?"""
    return re.search(r"\bWSL2?\b|\bWindows\b|\bWDDM\b", text(case, "gpu"), re.IGNORECASE) is not None


def lora_slots(case: Case) -> tuple[int, int]:
    """(slots, rank) that a case asks for: `lora` alone is one slot; numbers as rigserve or as vLLM names them."""
    slots = whole(case, "lora_slots", 0, 4096)
    slots = whole(case, "max_loras", 0, 4096) if slots is None else slots
    rank = whole(case, "lora_rank", 1, 4096) or whole(case, "max_lora_rank", 1, 4096) or LORA_RANK
    return (int(flag(case, "lora")) if slots is None else slots), rank
