"""The gateway's log: one JSON object a line on stderr. Never a prompt, an answer or a key."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import Callable
from typing import Protocol

import orjson

log = logging.getLogger("rigserve.gateway")
FLUSH_S = 0.1
MOST_LINES = 32  # small batches: large ones are fresh memory each time, and page faults cost more than the lines


def log_event(event: str, fields: dict[str, object], level: int = logging.INFO, with_traceback: bool = False) -> None:
    """Writes one line: time, event, fields."""
    if log.isEnabledFor(level):
        line = orjson.dumps({"time": utc_now(), "event": event, **fields}, default=str).decode()
        log.log(level, "%s", line, exc_info=with_traceback)


def utc_now(seconds_ago: float = 0.0) -> str:
    """The wall clock, for people: 2026-11-22T16:45:52.707Z."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_ago)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RequestLog:
    """The lines of ended requests: one each, so they are gathered and written together, at most FLUSH_S late.

    `write` takes whole lines; it is the `logging` module unless the process says where its stderr is (LogHandler).
    """

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self.write = write or _through_logging
        self._lines: list[bytes] = []
        self._armed = False
        self._second, self._stamp = -1, ""

    def add(self, line: dict[str, object]) -> None:
        """One line; its `time` is set here. Outside of an event loop it is written at once."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        line["time"] = f"{self._stamp}{int((now - second) * 1000):03d}Z"
        self._lines.append(orjson.dumps(line))
        if not self._armed:
            self._arm()
        elif len(self._lines) >= MOST_LINES:
            self.flush()

    def _arm(self) -> None:
        try:
            asyncio.get_running_loop().call_later(FLUSH_S, self._due)
        except RuntimeError:
            self.flush()
        else:
            self._armed = True

    def _due(self) -> None:
        self._armed = False
        self.flush()

    def flush(self) -> None:
        """Writes what was gathered."""
        if self._lines:
            lines, self._lines = self._lines, []
            self.write(b"\n".join(lines).decode())


def _through_logging(lines: str) -> None:
    for line in lines.split("\n"):
        log.info("%s", line)


class Stream(Protocol):
    """What a log is written to."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class LogHandler(logging.StreamHandler[Stream]):
    """The process's log handler. Request lines that wait are written before any other line: the order is kept, and a crash report never
    comes without what went before it."""

    def __init__(self, stream: Stream, requests: RequestLog) -> None:
        super().__init__(stream)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._requests = requests
        requests.write = self._write

    def emit(self, record: logging.LogRecord) -> None:
        self._requests.flush()
        super().emit(record)

    def _write(self, lines: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # as logging does: nobody reads the log any more, which is no reason to stop serving
            self.stream.write(lines + "\n")
            self.stream.flush()
