"""Seeded draws of a length: `fixed:128`, `uniform:64:256`, `lognormal:128:0.5` (median, sigma). Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

LONGEST_FACTOR = 8  # a lognormal draw is at most this many medians: its tail has no end, a context has


@dataclass(frozen=True, slots=True)
class Lengths:
    kind: str
    first: float
    second: float = 0.0

    def draw(self, source: random.Random) -> int:
        """At least 1."""
        if self.kind == "uniform":
            return source.randint(int(self.first), int(self.second))
        if self.kind == "lognormal":
            return max(1, round(min(source.lognormvariate(math.log(self.first), self.second), self.first * LONGEST_FACTOR)))
        return int(self.first)


def read_lengths(text: str) -> Lengths:
    """Raises ValueError with a sentence. A bare number is fixed."""
    kind, *numbers = text.split(":") if ":" in text else ("fixed", text)
    wanted = {"fixed": 1, "uniform": 2, "lognormal": 2}
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    good = len(values) == wanted.get(kind, -1) and values[0] >= 1
    if not good or (kind == "uniform" and values[1] < values[0]) or (kind == "lognormal" and not 0 <= values[1] <= 3):
        raise ValueError(f"{text!r} is not a length; write fixed:128, uniform:64:256 or lognormal:128:0.5 (median, sigma up to 3)")
    return Lengths(kind, *values)
