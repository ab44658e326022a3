"""Framing must not depend on where the reads fall."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire import sse
from services.wire.errors import BackendFailed

BLOCKS = [b'data: {"a": 1}', b": ping", b'event: x\ndata: {"b": 2}', b"data: [DONE]"]


@given(st.lists(st.integers(0, 80), max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_blocks_do_not_depend_on_the_cuts(cuts: list[int], end: bytes) -> None:
    whole = b"".join(block.replace(b"\n", end) + end + end for block in BLOCKS)
    splitter, found = sse.EventSplitter(), []
    edges = [0, *sorted(c for c in cuts if c < len(whole)), len(whole)]
    for start, stop in itertools.pairwise(edges):
        found += splitter.feed(whole[start:stop])
    assert found == BLOCKS
    assert splitter.rest == b""


def test_a_tail_without_blank_line_stays_in_rest() -> None:
    splitter = sse.EventSplitter()
    assert splitter.feed(b'data: {"a"') == []
    assert splitter.rest == b'data: {"a"'


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)
    with pytest.raises(sse.EventTooLarge):
        sse.EventSplitter().feed(b"data: 0123456789")


@pytest.mark.parametrize(("block", "data"), [
    (b"data: x", b"x"), (b"data:x", b"x"), (b'event: x\ndata: {"a":1}', b'{"a":1}'), (b"data: a\ndata: b", b"a\nb"), (b": ping", None),
])
def test_data_of(block: bytes, data: bytes | None) -> None:
    assert sse.data_of(block) == data


def test_error_event_is_the_sdk_shape() -> None:
    text = sse.error_event(BackendFailed("gone"))
    assert text == b'data: {"error":{"message":"gone","type":"api_error","param":null,"code":"backend_failed"}}\n\n'
