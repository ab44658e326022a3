"""What a stream's lines make of a record: the first token is the first content, and only a whole answer is a good one."""

from __future__ import annotations

import json

import pytest

from loadtest.record import Record
from loadtest.stream import StreamReader, read_whole, settle_tokens


def line(event: object) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n"


def delta(text: str | None = None, finish: str | None = None, **more: object) -> bytes:
    return line({"choices": [{"delta": {"role": "assistant", "content": text, **more}, "finish_reason": finish}]})


DONE = b"data: [DONE]\n"


def read(*lines: bytes) -> tuple[StreamReader, Record]:
    record = Record("chat_stream", 0.0, streamed=True)
    reader = StreamReader(record)
    for number, one in enumerate(lines):
        if not reader.line(one, float(number)):
            break
    return reader, record


def test_the_opening_event_and_comments_are_no_token() -> None:
    reader, record = read(b": ping\n", delta(""), b"\n", delta("a"), delta("b"), delta(None, "stop"), DONE)
    assert (record.first_s, record.last_s, record.chunks, record.gaps_s) == (3.0, 4.0, 2, [1.0])
    assert reader.verdict() is None


@pytest.mark.parametrize("piece", [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{}]}])
def test_reasoning_and_tool_calls_are_tokens(piece: dict[str, object]) -> None:
    assert read(delta("", **piece))[1].first_s == 0.0


def test_completions_bring_text() -> None:
    assert read(line({"choices": [{"text": "a", "finish_reason": "length"}]}), DONE)[0].verdict() is None


def test_usage_beats_counted_events_which_are_labelled() -> None:
    usage = line({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}})
    _, record = read(delta("ab"), delta("cd", "stop"), usage, DONE)
    settle_tokens(record)
    assert (record.output_tokens, record.tokens_source, record.prompt_tokens, record.cached_tokens) == (5, "usage", 9, 4)
    assert record.tpot_s == 1.0 / 4
    _, bare = read(delta("ab"), delta("cd", "stop"), DONE)
    settle_tokens(bare)
    assert (bare.output_tokens, bare.tokens_source) == (2, "chunks")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((DONE,), "without a token"), ((delta("a"), DONE), "without finish_reason"), ((delta("a", "stop"),), "before .DONE"),
        ((delta("a"), b"data: {]\n"), "not JSON"), ((delta("a"), b"data: 3\n"), "not an object"),
        ((delta("a"), line({"error": {"message": "died", "code": "x"}})), "died"), ((line({"error": "bad"}),), "bad"),
    ],
)  # fmt: skip
def test_broken_streams_are_failures(lines: tuple[bytes, ...], why: str) -> None:
    verdict = read(*lines)[0].verdict()
    assert verdict is not None
    assert why.replace(".", "[") in verdict


def test_answers_in_one_piece() -> None:
    record = Record("chat", 0.0)
    assert read_whole(record, {"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 3}}) is None
    assert record.output_tokens == 3
    assert read_whole(record, {"choices": [{}]}) == "an answer without finish_reason"
    assert read_whole(record, {"error": {}, "choices": []}) is not None
    assert read_whole(record, {"error": {"message": "no"}}) == "200 with an error inside"
    assert read_whole(record, []) == "an answer that is not a JSON object"
    picture = Record("image", 0.0)
    assert read_whole(picture, {"data": [{"b64_json": "x"}, {"url": "y"}], "usage": {"steps": 4}}) is None
    assert (picture.images, picture.steps) == (2, 4)
    assert read_whole(Record("image", 0.0), {"data": []}) == "no picture in the answer"
    assert read_whole(Record("embeddings", 0.0), {"data": [{"embedding": [0.1]}]}) is None
