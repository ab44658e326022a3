"""Which heads are plain, and that a head that is known again gets the verdict that reading it would give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.hot_head import HeadBook

HOSTS = frozenset(("localhost", "127.0.0.1"))
LINES = (b"host: localhost:8000", b"content-type: application/json", b"content-length: 12")


def head(*lines: bytes, first: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return b"\r\n".join((first, *lines)) + b"\r\n\r\n"


def book() -> HeadBook:
    return HeadBook(HOSTS, 1000)


def test_a_plain_head() -> None:
    data = head(*LINES, b"x-request-id: mine", b"authorization: Bearer k") + b"x" * 20
    read = book().read(data)
    assert read is not None
    assert (read.head.route, read.head.given_id, read.end - read.start) == ("/v1/chat/completions", "mine", 12)
    assert data[read.start :] == b"x" * 20


def test_the_same_head_with_another_length_is_known() -> None:
    one = book()
    first, second = one.read(head(*LINES)), one.read(head(*LINES[:2], b"content-length: 345"))
    assert first is not None
    assert second is not None
    assert first.head is second.head
    assert second.end - second.start == 345


@pytest.mark.parametrize("data", [
    head(*LINES, first=b"GET /v1/chat/completions HTTP/1.1"),
    head(*LINES, first=b"POST /v1/models HTTP/1.1"),
    head(*LINES, first=b"POST /v1/chat/completions?a=b HTTP/1.1"),
    head(*LINES, first=b"POST /v1/chat/completions/ HTTP/1.1"),
    head(*LINES, first=b"POST /v1/chat/completions HTTP/1.0"),
    head(*LINES, b"connection: close"),
    head(*LINES, b"expect: 100-continue"),
    head(*LINES, b"origin: http://localhost"),
    head(*LINES, b"transfer-encoding: chunked"),
    head(*LINES, b"content-encoding: gzip"),
    head(*LINES, b"upgrade: h2c", b"connection: upgrade"),
    head(*LINES, b"content-length: 12"),
    head(*LINES, b"Content-Length: 13"),
    head(*LINES[:2]),
    head(*LINES[:2], b"content-length: +12"),
    head(*LINES[:2], b"content-length: 12, 12"),
    head(*LINES[:2], b"content-length: 1001"),
    head(*LINES[:2], b"content-length: 99999999999999999999"),
    head(*LINES[:2], b"x-a: 1\r\n content-length: 12"),
    head(b"host: evil.example", *LINES[1:]),
    head(b"host: localhost", *LINES),
    head(*LINES[1:]),
    head(*LINES, b"no colon here"),
    head(*LINES, b"x-a: \x00"),
    head(*LINES)[:-2],
    b"",
    b"\r\n\r\n",
])  # fmt: skip
def test_not_plain(data: bytes) -> None:
    one = book()
    assert one.read(data) is None
    assert one.read(data) is None, "nor when it is asked again"


PIECES = [*LINES, b"Content-Length: 12", b"content-length: 7", b"x-a: content-length: 5", b"x-request-id: a", b"x-request-id: a b",
          b"connection: keep-alive", b"connection: close", b"host: 127.0.0.1", b"host: evil", b"expect: x", b"x-b:", b"content-length: x"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=7), min_size=2, max_size=8))
def test_what_is_known_again_is_as_what_is_read(heads: list[list[bytes]]) -> None:
    """One book for many heads says of each what a fresh book says."""
    kept = book()
    for lines in heads:
        for data in (head(*lines), head(*lines)):
            assert kept.read(data) == book().read(data)


def test_the_book_stays_small() -> None:
    one = book()
    for number in range(3000):
        assert one.read(head(*LINES, b"x-request-id: %d" % number)) is not None
    assert len(one._kept) <= 256
