"""When each model loaded, from the workers' own words with the engine's time stamps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tests.compose.running_stack import RunningStack


@dataclass(frozen=True, slots=True)
class Loading:
    """From the start of the engine to its first answer."""

    service: str
    began: datetime
    ended: datetime


def loadings(stack: RunningStack, services: list[str], since: str = "") -> list[Loading]:
    """The first loading of each service whose line is later than `since` (an RFC 3339 stamp), in the order in which they began."""
    found = []
    for service in services:
        lines = [(stamp, text) for stamp, text in stack.logs(service) if stamp > since]
        began = next(stamp for stamp, text in lines if text.startswith("worker ") and ": loading" in text)
        ended = next(stamp for stamp, text in lines if stamp > began and text.startswith("worker ") and text.endswith(": ready"))
        found.append(Loading(service, _moment(began), _moment(ended)))
    return sorted(found, key=lambda loading: loading.began)


def overlapping(found: list[Loading]) -> list[tuple[str, str]]:
    """Pairs of services that loaded at the same time."""
    return [(a.service, b.service) for i, a in enumerate(found) for b in found[i + 1 :] if b.began < a.ended]


def _moment(stamp: str) -> datetime:
    """Of docker's nanoseconds Python takes the microseconds."""
    whole, _, rest = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6]:0<6}+00:00")
