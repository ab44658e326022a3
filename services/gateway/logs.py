"""The gateway's log: one JSON object a line on stderr. Never a prompt, an answer or a key."""

from __future__ import annotations

import datetime
import logging

import orjson

log = logging.getLogger("rigserve.gateway")


def log_event(event: str, fields: dict[str, object], level: int = logging.INFO, with_traceback: bool = False) -> None:
    """Writes one line: time, event, fields."""
    if log.isEnabledFor(level):
        line = orjson.dumps({"time": utc_now(), "event": event, **fields}, default=str).decode()
        log.log(level, "%s", line, exc_info=with_traceback)


def utc_now() -> str:
    """The wall clock, for people: 2026-11-22T16:45:52.707Z."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
