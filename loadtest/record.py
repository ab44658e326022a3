"""What is known of one request. Times are seconds after the moment it was due, so a late load generator can't hide its lateness."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Ending = Literal["ok", "refused", "shed", "failed", "cancelled", "unfinished"]
"""ok: answered whole. refused: a 4xx that was the aim. shed: 429 or 503 with Retry-After. failed: anything else that should not be.
cancelled: by this client, on purpose. unfinished: still running when the run ended."""


@dataclass(slots=True)
class Record:
    """None is unknown or does not apply. `late_s`: from due to sent. `first_s`, `last_s`: the first and last piece of content.
    `tokens_source`: usage (the server's own count) or chunks (content events, which may hold more than one token)."""

    kind: str
    started_unix_s: float
    index: int | None = None
    ending: Ending = "failed"
    reason: str | None = None
    status: int | None = None
    code: str | None = None
    late_s: float = 0.0
    header_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    end_s: float = 0.0
    streamed: bool = False
    chunks: int = 0
    gaps_s: list[float] = field(default_factory=list)
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    tokens_source: str | None = None
    wanted_tokens: int | None = None
    finish: str | None = None
    images: int | None = None
    size: str | None = None
    steps: int | None = None
    card: str | None = None
    backend: str | None = None
    queue_s: float | None = None
    dropped: str | None = None
    generator: int = 0

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first. Worked number: first at 0.5 s, last at 1.5 s, 11 tokens: 0.1 s."""
        if not self.streamed or self.first_s is None or self.last_s is None or not self.output_tokens or self.output_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)


def to_row(record: Record) -> dict[str, Any]:
    """JSON without what is unknown, so that a file of many stays small."""
    row = {name: value for name, value in dataclasses.asdict(record).items() if value is not None}
    row["gaps_s"] = [round(gap, 5) for gap in record.gaps_s]
    return {"type": "request", **{name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}}


def from_row(row: dict[str, Any]) -> Record:
    return Record(**{name: value for name, value in row.items() if name != "type"})
