"""Conditions on a result that make the command fail: `failures>0`, `ttft_s.p95>2`, `goodput_share<0.99`. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.compare import at

_SHAPE = re.compile(r"^\s*([a-z_0-9.]+)\s*(<=|>=|<|>|==|!=)\s*(-?\d+(?:\.\d+)?)\s*$")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limit:
    path: str
    operator: str
    value: float

    def broken_by(self, result: dict[str, Any]) -> str | None:
        """Why the run fails by this limit; None when it does not. What is unknown can't be shown to be fine, so it fails."""
        found = at(result, self.path)
        if found is None:
            return f"{self.path} is unknown, and the run must fail if it is {self.operator} {self.value:g}"
        if isinstance(found, bool) or not isinstance(found, int | float):
            return f"{self.path} is no number"
        return f"{self.path} is {found:g} ({self.operator} {self.value:g})" if _OPERATORS[self.operator](found, self.value) else None


def read_limit(text: str) -> Limit:
    """Raises ValueError with a sentence."""
    match = _SHAPE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no condition; write one such as failures>0, http_5xx>0 or ttft_s.p95>2")
    return Limit(match[1], match[2], float(match[3]))
