"""The heads of answers on the short way. What is the same for every answer of one backend is put together once."""

from __future__ import annotations

import orjson

from services.gateway.backends import Backend
from services.gateway.fields import header_value
from services.wire.errors import ApiError

Pairs = list[tuple[bytes, bytes]]
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\ncache-control: no-cache"
    b"\r\nx-accel-buffering: no"
)


class AnswerHeads:
    """`defaults` are uvicorn's own headers (the date): a new list every second, and with it everything is made anew."""

    def __init__(self) -> None:
        self._defaults: Pairs = []
        self._known: dict[tuple[str, bool], bytes] = {}

    def whole(self, backend: Backend, length: int, defaults: Pairs, more: bytes) -> bytes:
        """Of a whole 200 answer in JSON. `more`: from `last_lines`."""
        return b"%b\r\ncontent-length: %d%b" % (self._fixed(backend, False, defaults), length, more)

    def stream(self, backend: Backend, defaults: Pairs, more: bytes) -> bytes:
        """Of a stream of events, in chunks."""
        return self._fixed(backend, True, defaults) + more

    def _fixed(self, backend: Backend, stream: bool, defaults: Pairs) -> bytes:
        if defaults is not self._defaults:
            self._defaults = defaults
            self._known.clear()
        found = self._known.get((backend.id, stream))
        if found is None:
            lines = [_STREAM if stream else _WHOLE, *(b"%b: %b" % pair for pair in defaults)]
            lines.append(b"x-rigserve-backend: %b" % backend.id.encode("latin1", "replace"))
            lines.append(b"x-rigserve-attempts: 1\r\nx-rigserve-queue-ms: 0")
            if backend.card is not None:
                lines.append(b"x-rigserve-card: " + backend.card.id.encode("latin1", "replace"))
            found = self._known[backend.id, stream] = b"\r\n".join(lines)
        return found


def last_lines(request_id: str, keep_alive: bool, dropped: tuple[str, ...] = ()) -> bytes:
    """What differs from answer to answer, and the end of the head."""
    named = b"\r\nx-rigserve-dropped-fields: " + header_value(dropped).encode("latin1", "replace") if dropped else b""
    return b"%b\r\nx-request-id: %b%b\r\n\r\n" % (named, request_id.encode(), b"" if keep_alive else b"\r\nconnection: close")


def error_answer(error: ApiError, backend: Backend, dropped: tuple[str, ...], defaults: Pairs, request_id: str, keep_alive: bool) -> bytes:
    """A whole error answer, in the order of seated.py's."""
    body = orjson.dumps(error.body())
    lines = [f"HTTP/1.1 {error.status} Error".encode(), *(b"%b: %b" % pair for pair in defaults)]
    headers = {
        "content-type": "application/json", **error.headers(), "content-length": str(len(body)), "x-rigserve-backend": backend.id,
        "x-rigserve-attempts": "1", "x-rigserve-queue-ms": "0",
    }  # fmt: skip
    if backend.card is not None:
        headers["x-rigserve-card"] = backend.card.id
    lines += [f"{name}: {value}".encode("latin1", "replace") for name, value in headers.items()]
    return b"\r\n".join(lines) + last_lines(request_id, keep_alive, dropped) + body
