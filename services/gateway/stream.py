"""Watches a text stream pass by: what may go on to the client, what it measured, how it ended. Pure: bytes and a clock in, bytes out.

Only three kinds of events are parsed: those before the first content (to know when that came), those with a usage, and an error.
"""

from __future__ import annotations

from typing import Any

import orjson

from services.wire.shapes import TokenUsage, token_usage
from services.wire.sse import DONE, EventSplitter, EventTooLarge, data_of

UNBOUNDED = 2**62


class TextStream:
    """`feed` reads; then `done`, or `broken` with the reason.

    `drop_usage`: the client did not ask for the usage event that we asked the engine for, so that one event is taken out.
    `most_events`: an engine that sends more goes on past what was asked for; None: not bounded.
    `told`: it is broken because the engine said so, in an error event.
    `first_s`/`last_s`: when the first and the last content came, on the clock that `feed` is given.
    """

    __slots__ = ("_drop_usage", "_finished", "_most", "_splitter", "broken", "done", "events", "first_s", "last_s", "told", "usage")
    END = DONE

    def __init__(self, drop_usage: bool, most_events: int | None = None) -> None:
        self._drop_usage = drop_usage
        self._most = UNBOUNDED if most_events is None else most_events
        self._splitter = EventSplitter()
        self._finished = False
        self.events = 0
        self.usage: TokenUsage | None = None
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.done = False
        self.broken: str | None = None
        self.told = False

    def feed(self, data: bytes, now: float) -> bytes:
        """What of `data` goes to the client: whole events only. Nothing more comes once `done` or `broken`."""
        try:
            blocks = self._splitter.feed(data)
        except EventTooLarge as error:
            self.broken = str(error)
            return b""
        out = []
        for block in blocks:
            if self._passes(block, now):
                out.append(block)
            if self.done or self.broken:
                break
        text = b"\n\n".join(out) + b"\n\n" if out else b""
        return text + self.END if self.done else text

    def plain_event(self, data: bytes, start: int, end: int, now: float) -> bool:
        """Whether data[start:end] is one whole event that `feed` would pass on as it is: neither the first content nor a usage, an error,
        a finish, nor the end. Then it is counted; otherwise nothing has happened, and `feed` decides."""
        if (
            self.first_s is not None
            and data.startswith(b'data: {"', start)
            and data.find(b"\n", start, end) == end - 2
            and data.startswith(b"}\n\n", end - 3)
            and data.find(b"\r", start, end) < 0
            and (b'"usage"' not in data or b'"usage":null' in data)
            and b'"finish_reason":"' not in data
            and b'"finish_reason": "' not in data
            and not data.startswith(b'data: {"error"', start)
            and not self._splitter.rest
            and (data.isascii() or _is_utf8(data[start:end]))
            and not self.done
            and self.broken is None
            and self.events < self._most
        ):
            self.events += 1
            self.last_s = now
            return True
        return False

    def end(self) -> None:
        """The engine's answer has ended. An end without [DONE] is a failure, however clean: SDKs would take it for a whole answer."""
        if not self.done and self.broken is None:
            self.broken = "the engine ended its answer before it was whole"

    def _passes(self, block: bytes, now: float) -> bool:
        """Whether one event goes on.

        1. A comment (heartbeat) goes on. A line that is no SSE field is broken.
        2. [DONE] ends the stream; one that carried neither content nor a finish reason is broken.
        3. A payload that is not one UTF-8 JSON object is broken; an error object is the engine's own failure.
        4. A usage is kept; an event that holds nothing else is taken out if the client did not ask for it.
        5. Everything else goes on.
        """
        payload = data_of(block)
        if payload is None:  # 1
            if not block.startswith((b":", b"event:", b"id:", b"retry:")):
                self.broken = "the engine sent something that is not a server-sent event"
                return False
            return True
        if payload == b"[DONE]":  # 2
            if self.first_s is None and not self._finished:
                self.broken = "the engine ended its answer without any content"
            self.done = self.broken is None
            return False
        if not (payload.startswith(b"{") and payload.endswith(b"}") and _is_utf8(payload)):  # 3
            self.broken = "the engine sent an event that is not JSON"
            return False
        if payload.startswith((b'{"error"', b'{ "error"')):
            self.broken = engine_message(payload) or "the engine failed"
            self.told = True
            return False
        self.events += 1
        if self.events > self._most:
            self.broken = "the engine went on past the tokens that were asked for"
            return False
        if b'"finish_reason":"' in payload or b'"finish_reason": "' in payload:
            self._finished = True
        if b'"usage"' in payload and b'"usage":null' not in payload and b'"usage": null' not in payload:  # 4
            return self._usage(payload, now)
        self._time(payload, now)
        return True  # 5

    def _usage(self, payload: bytes, now: float) -> bool:
        event = object_of(payload)
        if event is None:
            self.broken = "the engine sent an event that is not JSON"
            return False
        self.usage = token_usage(event.get("usage")) or self.usage
        if event.get("choices") == []:
            return not self._drop_usage
        self._time(payload, now)
        return True

    def _time(self, payload: bytes, now: float) -> None:
        if self.first_s is None:
            if not has_content(object_of(payload)):
                return
            self.first_s = now
        self.last_s = now


def has_content(event: dict[str, Any] | None) -> bool:
    """Whether a chunk carries anything generated: text, reasoning or a tool call; not the bare role that opens a chat stream."""
    for choice in (event or {}).get("choices") or ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        said = {k: v for k, v in delta.items() if k != "role"} if isinstance(delta, dict) else {"text": choice.get("text")}
        if any(said.values()):
            return True
    return False


def engine_message(payload: bytes) -> str | None:
    """The message of an engine's error body, in whichever of the usual shapes; None when there is none."""
    body = object_of(payload)
    error = body.get("error", body) if body else None
    message = error.get("message") if isinstance(error, dict) else error
    return message[:2000] if isinstance(message, str) and message else None


def object_of(payload: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
