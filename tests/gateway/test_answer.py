"""The answer parser must not depend on where the reads fall."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.answer import AnswerParser, BadAnswer

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX: y\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


def cut(whole: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({c for c in cuts if 0 < c < len(whole)}), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


@given(st.sampled_from([LENGTH, CHUNKED, INTERIM]), st.lists(st.integers(1, 120), max_size=30))
def test_any_cut(whole: bytes, cuts: list[int]) -> None:
    parser = AnswerParser()
    body = b"".join(parser.feed(piece) for piece in cut(whole, cuts))
    assert body == b"hello world"
    assert parser.done
    assert parser.reusable
    assert parser.head is not None
    assert parser.head.status == 200


def test_until_close() -> None:
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == b"abc"
    assert not parser.done
    assert parser.end()
    assert not parser.reusable


@pytest.mark.parametrize("whole", [LENGTH, CHUNKED])
def test_an_early_end_is_no_end(whole: bytes) -> None:
    parser = AnswerParser()
    parser.feed(whole[:-3])
    assert not parser.end()


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_bytes_after_the_end_make_the_connection_useless(extra: bytes) -> None:
    for whole in (LENGTH, CHUNKED):
        parser = AnswerParser()
        parser.feed(whole + extra)
        assert parser.done
        assert not parser.reusable
        later = AnswerParser()
        later.feed(whole)
        later.feed(extra)
        assert not later.reusable


@pytest.mark.parametrize("head", [b"connection: close\r\n", b"Connection: Close\r\n"])
def test_close_is_not_reusable(head: bytes) -> None:
    parser = AnswerParser()
    parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + head + b"\r\n")
    assert parser.done
    assert not parser.reusable


@pytest.mark.parametrize("whole", [
    b"garbage\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1e3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 5000, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
])
def test_bad_answers(whole: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerParser().feed(whole)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_parse_or_are_bad(data: bytes, headed: bool) -> None:
    parser = AnswerParser()
    with contextlib.suppress(BadAnswer):
        parser.feed((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" if headed else b"") + data)


@given(st.binary(min_size=1, max_size=40), st.sampled_from([b"", b";x=y", b" "]), st.booleans())
def test_one_chunk_is_what_feed_would_give(body: bytes, extension: bytes, upper: bool) -> None:
    size = (b"%X" if upper else b"%x") % len(body)
    data = size + extension + b"\r\n" + body + b"\r\n"
    fast, slow = AnswerParser(), AnswerParser()
    for parser in (fast, slow):
        parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    start = fast.one_chunk(data)
    if start:
        assert data[start:-2] == body
    assert bool(start) == (not extension and size == size.lower())
    assert slow.feed(data) == body
    assert slow.one_chunk(b"1\r\nx\r\n") == 3


@pytest.mark.parametrize("data", [
    b"0\r\n\r\n", b"1\r\nxy\r\n", b"2\r\nxy\r\n1\r\n", b"2\r\nxy", b"\r\n", b"", b"02\r\nxy\r\n", b"+2\r\nxy\r\n",
])  # fmt: skip
def test_not_one_chunk(data: bytes) -> None:
    parser = AnswerParser()
    parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    assert parser.one_chunk(data) == 0


def test_inside_a_chunk_nothing_is_one_chunk() -> None:
    parser = AnswerParser()
    parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc")
    assert parser.one_chunk(b"1\r\nx\r\n") == 0
    assert parser.feed(b"1\r\nx\r\n\r\n") == b"1\r\nx\r\n"
