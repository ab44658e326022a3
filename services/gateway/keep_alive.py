"""The request field `keep_alive`: how long a model that is loaded on demand stays after its last request. Ollama's forms."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from services.gateway.checks import shown
from services.wire.errors import InvalidValue

FIELD = "keep_alive"
MOST_S = 30 * 86400.0
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """What a request asked for. `seconds` None: it stays until its room is needed."""

    seconds: float | None


def read_keep_alive(body: dict[str, Any]) -> KeepAlive | None:
    """What a request's body asks for. Raises InvalidValue."""
    return None if body.get(FIELD) is None else KeepAlive(keep_alive_s(body[FIELD]))


def keep_alive_s(value: Any) -> float | None:
    """Seconds; None: it stays until its room is needed. Raises InvalidValue.

    1. A number: seconds; negative: it stays. 2. A number as text: the same. 3. Text like 30s, 5m, 1h30m.
    Worked numbers: "1h30m" is 5400 s, 0 is 0 s, -1 is None.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value, re.ASCII):  # 2
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= MOST_S:  # 1
        return None if value < 0 else float(value)
    if isinstance(value, str):  # 3
        text = value.removeprefix("-")
        if len(value) <= 64 and _WHOLE.fullmatch(text):
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
            if seconds <= MOST_S:
                return None if text != value else seconds
    allowed = "seconds up to 30 days, or a time like 30s, 5m or 1h30m; negative: until its room is needed"
    raise InvalidValue(f"{FIELD} must be {allowed}; got {shown(value)}.", param=FIELD)
