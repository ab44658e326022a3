"""What was used: sums by day, key, model and card. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SUMS = ("requests", "unmetered_requests", "prompt_tokens", "output_tokens", "images", "seconds")


class UsageId(NamedTuple):
    """Whose sum it is. `day` is of UTC, 2026-11-22; `key_id` and `card` are "" where there is none."""

    day: str
    key_id: str
    model: str
    card: str


@dataclass(slots=True)
class Sums:
    """`unmetered_requests`: reached an engine that did not say what it counted, so tokens are a lower bound. `seconds`: of a seat.
    `joules` None: not known, of the whole sum as soon as of a part."""

    requests: int = 0
    unmetered_requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    seconds: float = 0.0
    joules: float | None = None

    def add(self, other: Sums) -> None:
        self.joules = other.joules if not self.requests else _both(self.joules, other.joules)
        self.requests += other.requests
        self.unmetered_requests += other.unmetered_requests
        self.prompt_tokens += other.prompt_tokens
        self.output_tokens += other.output_tokens
        self.images += other.images
        self.seconds += other.seconds

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SUMS} | {"joules": self.joules}


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


@dataclass(slots=True)
class Batch:
    """Sums on their way to the database, under an id by which it knows them again. At most `most_rows` of them; the rest is counted as
    lost."""

    id: str
    most_rows: int
    rows: dict[UsageId, Sums] = field(default_factory=dict)
    lost_requests: int = 0

    def add(self, ident: UsageId, sums: Sums) -> None:
        found = self.rows.get(ident)
        if found is not None:
            found.add(sums)
        elif len(self.rows) < self.most_rows:
            self.rows[ident] = sums
        else:
            self.lost_requests += sums.requests

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "rows": [[*ident, sums.to_json()] for ident, sums in self.rows.items()]}


def read_batch(value: Any, most_rows: int) -> Batch:
    """What `Batch.to_json` wrote. Raises ValueError, KeyError or TypeError when it did not."""
    batch = Batch(str(value["id"])[:32], most_rows)
    for day, key_id, model, card, sums in value["rows"]:
        batch.add(UsageId(str(day), str(key_id), str(model), str(card)), Sums(**sums))
    return batch


def total(rows: Iterable[Sums]) -> Sums:
    found = Sums()
    for row in rows:
        found.add(row)
    return found
