"""The pure parts of the HTTP edge; the rest over sockets in tests/reliability/test_protocol.py."""

from __future__ import annotations

import pytest

from services.gateway.edge import _without_upgrade, closing_answer, connection_limit
from services.wire.errors import TooManyConnections


@pytest.mark.parametrize(("wanted", "open_files", "limit"), [(4096, 1024, 448), (4096, 8448, 4096), (100, 10**6, 100), (4096, 64, 1)])
def test_connection_limit(wanted: int, open_files: int, limit: int) -> None:
    assert connection_limit(wanted, open_files) == limit


@pytest.mark.parametrize(("head", "read"), [
    (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\nupgrade: x", b"GET / HTTP/1.1\r\nx-upgrade: h2c\r\n\r\nupgrade: x"),
    (b"GET / HTTP/1.1\r\nx: upgrade\r\n\r\n\r\nupgrade: h2c", None), (b"GET / HTTP/1.1\r\nupgrade: h2c\r\n", None), (b"", None),
])  # fmt: skip
def test_wishes_for_another_protocol_are_hidden(head: bytes, read: bytes | None) -> None:
    """In the head only, and only where all of it is there."""
    assert _without_upgrade(head) == (head if read is None else read)


def test_closing_answer() -> None:
    head, _, body = closing_answer(TooManyConnections("Full.", retry_after_s=1.0)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert {"connection: close", "retry-after: 1", f"content-length: {len(body)}"} <= set(lines)
    assert b'"too_many_connections"' in body
