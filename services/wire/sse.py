"""Server-sent events as the OpenAI API uses them: `data: {json}` blocks, ended by `data: [DONE]`.

A stream that fails after its first byte ends with one `data: {"error": {...}}` event and the connection closes: the SDKs raise it as
APIError, where a plain end would look like a whole answer to them.
"""

from __future__ import annotations

from typing import Any

import orjson

from services.wire.errors import ApiError

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 32 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event is longer than MAX_EVENT_BYTES: the sender is broken or hostile."""


def event(payload: Any) -> bytes:
    """One event with a JSON payload."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """The event that ends a stream that has failed."""
    return event(error.body())


def data_of(block: bytes) -> bytes | None:
    """The payload of one event block; several `data:` lines are joined. None for a block without data (a comment, a heartbeat).

    Worked example: data_of(b'event: x\\ndata: {"a":1}') == b'{"a":1}'.
    """
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


class EventSplitter:
    """Cuts a byte stream into whole event blocks, wherever the reads fall. Blocks come without their blank line."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """What came after the last whole block: must be empty when a stream ends in order."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that `data` completes. Raises EventTooLarge when one grows without end."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = _plain_line_ends(data)
        *blocks, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of the engine is longer than {MAX_EVENT_BYTES} bytes")
        return [block for block in (b.lstrip(b"\n") for b in blocks) if block]


def _plain_line_ends(data: bytes) -> bytes:
    """CR LF becomes LF. A CR at the very end waits for its LF; JSON escapes CR, so no payload is touched."""
    return data[:-1].replace(b"\r\n", b"\n") + data[-1:] if data.endswith(b"\r") else data.replace(b"\r\n", b"\n")
