"""The last refusals and why, for `GET /v1/refusals`: who asks sees what it was refused itself; administrators see all. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.outcome import Outcome
from services.wire.errors import ApiError

KEPT = 100
KEPT_CARDS = 16
# What a reader needs to draw a bill beside its card; the rest of a report is for who asked.
REPORT_FIELDS = ("model_id", "card_id", "card_name", "simulated", "verdict", "reason", "variant_id", "quant", "engine", "workload", "bill",
                 "need_bytes", "have_bytes", "headroom_bytes", "margin_bytes")  # fmt: skip
KEPT_HINTS = 3


@dataclass(slots=True)
class Refused:
    """The same refusal, `count` times. `first_at` and `at` are of the wall clock, in UTC; message and arithmetic are the last one's."""

    key_id: str | None
    model: str | None
    route: str
    status: int
    code: str
    message: str
    param: str | None
    first_at: str
    at: str
    count: int
    fit: list[dict[str, Any]]
    cards: int

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model, "route": self.route, "status": self.status, "code": self.code, "message": self.message,
            "param": self.param, "count": self.count, "first_at": self.first_at, "at": self.at,
            "key_id": self.key_id, "fit": self.fit, "cards_asked": self.cards,
        }  # fmt: skip


class RefusalBook:
    """The last `KEPT` different refusals. Two are the same when key, model and code are: a client that asks again and again fills one line,
    and a flood of them costs a look into a dictionary each."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str | None, str | None, str], Refused] = OrderedDict()

    def add(self, outcome: Outcome, error: ApiError, at: str) -> None:
        """Enters one refusal, that happened `at`."""
        reports = error.extra.get("fit") or ()
        model = outcome.model_id or (reports[0].get("model_id") if reports else None)
        ident = (outcome.key_id, model, error.code)
        known = self._kept.pop(ident, None)
        first_at, count = (known.first_at, known.count + 1) if known else (at, 1)
        self._kept[ident] = Refused(outcome.key_id, model, outcome.route, error.status, error.code, error.message, error.param, first_at,
                                    at, count, nearest(reports), len(reports))
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def rows(self, key_id: str | None, all_keys: bool) -> list[dict[str, Any]]:
        """Newest first: those of one key (None: of callers without one), or of all."""
        return [kept.to_json() for kept in reversed(self._kept.values()) if all_keys or kept.key_id == key_id]


def nearest(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports of the cards that came nearest, best first: at most KEPT_CARDS."""
    ordered = sorted(reports, key=_room_bytes, reverse=True)
    return [
        {name: report.get(name) for name in REPORT_FIELDS} | {"hints": [hint["text"] for hint in (report.get("hints") or ())[:KEPT_HINTS]]}
        for report in ordered[:KEPT_CARDS]
    ]


def _room_bytes(report: dict[str, Any]) -> int:
    room = report.get("headroom_bytes")
    return room if isinstance(room, int) else -(2**62)
