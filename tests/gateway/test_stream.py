"""What passes of a stream, what it measures, and how it ends."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.stream import TextStream, engine_message, has_content
from services.wire.shapes import TokenUsage
from tests.fakes.answers import Shape

SHAPE = Shape(True, "m", 1, 7, 3)
EVENTS = [*SHAPE.opening(), *(SHAPE.event(i) for i in range(3))]


def run(data: bytes, drop_usage: bool = True, cuts: list[int] | None = None) -> tuple[TextStream, bytes]:
    stream, out = TextStream(drop_usage), b""
    edges = [0, *sorted({c for c in cuts or [] if 0 < c < len(data)}), len(data)]
    for now, (start, stop) in enumerate(itertools.pairwise(edges)):
        if not stream.done and not stream.broken:
            out += stream.feed(data[start:stop], float(now))
    stream.end()
    return stream, out


@given(st.lists(st.integers(1, 900), max_size=20))
def test_the_usage_that_nobody_asked_for_is_taken_out_wherever_the_reads_fall(cuts: list[int]) -> None:
    stream, out = run(b"".join([*EVENTS, *SHAPE.closing(usage=True)]), cuts=cuts)
    assert out == b"".join([*EVENTS, *SHAPE.closing(usage=False)])
    assert stream.usage == TokenUsage(7, 3)
    assert (stream.done, stream.broken) == (True, None)


def test_the_usage_that_was_asked_for_stays() -> None:
    whole = b"".join([*EVENTS, *SHAPE.closing(usage=True)])
    stream, out = run(whole, drop_usage=False)
    assert out == whole
    assert stream.usage == TokenUsage(7, 3)


def test_a_usage_beside_a_choice_is_read_and_passed_on() -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    stream, out = run(EVENTS[1] + last + b"data: [DONE]\n\n")
    assert last in out
    assert stream.usage == TokenUsage(1, 2)


def test_times_are_of_content() -> None:
    stream = TextStream(True)
    for now, event in enumerate([*EVENTS, *SHAPE.closing(usage=True)]):
        stream.feed(event, float(now))
    assert (stream.first_s, stream.last_s) == (1.0, 4.0), "the role at 0 and the usage at 5 are no content"


def test_what_comes_after_done_is_dropped() -> None:
    stream, out = run(b"".join([*EVENTS, b"data: [DONE]\n\n", EVENTS[1]]))
    assert stream.done
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(("tail", "why"), [
    (b"", "before it was whole"), (b"data: [DO", "before it was whole"), (b'data: {"error":{"message":"boom"}}\n\n', "boom"),
    (b'data: {"error": "boom"}\n\n', "boom"), (b"data: {}x\n\n", "not JSON"), (b"data: [1]\n\n", "not JSON"),
    (b"<html>\n\n", "not a server-sent"),
    (b'error: {"code":500}\n\n', "not a server-sent"), (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', "not JSON"),
])
def test_broken_streams(tail: bytes, why: str) -> None:
    stream, out = run(b"".join(EVENTS) + tail)
    assert stream.broken is not None
    assert why in stream.broken
    assert not stream.done
    assert out == b"".join(EVENTS)


@pytest.mark.parametrize("events", [[], EVENTS[:1]])
def test_done_without_content_or_reason_is_no_success(events: list[bytes]) -> None:
    stream, _ = run(b"".join(events) + b"data: [DONE]\n\n")
    assert stream.broken == "the engine ended its answer without any content"


def test_an_empty_answer_with_a_finish_reason_is_one() -> None:
    stream, _ = run(SHAPE.opening()[0] + b"".join(SHAPE.closing(usage=False)))
    assert stream.done


def test_content_without_a_finish_reason_is_accepted() -> None:
    stream, _ = run(EVENTS[1] + b"data: [DONE]\n\n")
    assert stream.done


def test_comments_and_named_events_pass() -> None:
    ping = b": ping\n\n"
    named = b'event: message\nid: 5\ndata: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    stream, out = run(ping + named + b"data: [DONE]\n\n")
    assert out == ping + named + b"data: [DONE]\n\n"
    assert stream.done


@given(st.binary(max_size=200))
def test_any_bytes_end_somehow(data: bytes) -> None:
    stream, _ = run(data)
    assert stream.done != (stream.broken is not None)


@pytest.mark.parametrize(("choice", "content"), [
    ({"delta": {"role": "assistant", "content": ""}}, False), ({"delta": {"content": "x"}}, True), ({"delta": {"tool_calls": [{}]}}, True),
    ({"delta": {"reasoning_content": "hm"}}, True), ({"text": "x"}, True), ({"text": ""}, False), ({"delta": None}, False),
])
def test_has_content(choice: dict, content: bool) -> None:
    assert has_content({"choices": [choice]}) is content
    assert not has_content({"choices": None})
    assert not has_content(None)


@pytest.mark.parametrize(("body", "message"), [
    (b'{"error":{"message":"a","code":400}}', "a"), (b'{"error":"b"}', "b"), (b'{"message":"c"}', "c"), (b'{"detail":"d"}', None),
    (b"x", None),
    (b'{"error":{"message":5}}', None),
])
def test_engine_message(body: bytes, message: str | None) -> None:
    assert engine_message(body) == message


PAYLOADS = [b'{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}', b'{"choices":[{"delta":{"content":"\xe6\xbc\xa2"}}]}',
            b'{"choices":[{"delta":{"content":"\xe6\xbc"}}]}', b'{"choices":[{"delta":{},"finish_reason":"stop"}]}',
            b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', b'{"choices":[{"delta":{"content":"a"}}],"usage":null}',
            b'{"error":{"message":"x"}}', b"[DONE]", b'{"half":', b"{}", b'{"a":"\r"}']


@given(st.lists(st.sampled_from(PAYLOADS), max_size=6), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n"]))
def test_a_plain_event_is_what_feed_would_pass_on_unchanged(payloads: list[bytes], end: bytes) -> None:
    """Fed one event at a time, the stream that looks for plain events first ends up exactly as one that never does."""
    fast, slow = TextStream(True), TextStream(True)
    for number, payload in enumerate([b'{"choices":[{"delta":{"content":"first"}}]}', *payloads]):
        data = b"data: " + payload + (end if number else b"\n\n")
        if fast.done or fast.broken:
            break
        passed = data if fast.plain_event(data, 0, len(data), number) else fast.feed(data, number)
        assert passed == slow.feed(data, number)
        for name in ("events", "usage", "first_s", "last_s", "done", "broken", "told"):
            assert getattr(fast, name) == getattr(slow, name), name
