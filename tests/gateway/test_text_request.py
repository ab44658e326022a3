"""Reading a text request: bounds, what the engine gets, and when it is asked to count."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.context import proven_need
from services.gateway.text_request import TEMPLATE_TOKENS, Route, TextRequest, read_text_request
from services.wire.errors import InvalidValue

CHAT: Route = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "héllo"}]


def chat(**more: Any) -> TextRequest:
    return read_text_request(CHAT, json.dumps({"model": "m", "messages": MESSAGES, **more}).encode())


def test_bytes_are_kept() -> None:
    request = chat(temperature=1)
    assert request.for_engine("m") is request.raw


@pytest.mark.parametrize("tail", ["}", " } ", "}\n\t"])
def test_usage_is_asked_for_at_the_end_of_the_clients_bytes(tail: str) -> None:
    raw = ('{"model":"m","stream":true,"messages":[{"role":"user","content":"}"}]' + tail).encode()
    sent = read_text_request(CHAT, raw).for_engine("m")
    assert sent.startswith(raw.rstrip()[:-1])
    assert orjson.loads(sent) == orjson.loads(raw) | {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"continuous_usage_stats": False}])
def test_usage_is_asked_for_beside_other_options(options: Any) -> None:
    sent = orjson.loads(chat(stream=True, stream_options=options).for_engine("m"))
    assert sent["stream_options"] == (options or {}) | {"include_usage": True}


def test_what_changes_is_written_anew() -> None:
    sent = orjson.loads(chat(stream=True, metadata={}).for_engine("id"))
    assert sent == {"model": "id", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    assert orjson.loads(chat().for_engine("id"))["model"] == "id"


def test_worked_bound() -> None:
    """Body bytes and 256 for the template, and the output."""
    request = chat(max_tokens=10)
    assert proven_need(request) == len(request.raw) + TEMPLATE_TOKENS + 10
    assert proven_need(chat()) == len(chat().raw) + TEMPLATE_TOKENS + 1
    completion = read_text_request("/v1/completions", b'{"model":"m","prompt":"x"}')
    assert proven_need(completion) == len(completion.raw) + TEMPLATE_TOKENS + 16


def test_when_bytes_prove_nothing() -> None:
    assert proven_need(chat(tools=[{"type": "function", "function": {"name": "f"}}])) is None
    assert proven_need(chat(truncate_prompt_tokens=5, max_tokens=3)) == 3, "the engine cuts the prompt"


@given(st.text(max_size=60))
def test_the_bound_holds_for_any_text(text: str) -> None:
    """A token is at least a byte of UTF-8, and JSON never writes a text with fewer bytes than it has."""
    for ascii_only in (True, False):
        try:
            raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=ascii_only).encode()
        except UnicodeEncodeError:
            continue
        try:
            most = read_text_request(CHAT, raw).most_prompt_tokens
        except InvalidValue:
            continue
        assert most is not None
        assert most >= len(text.encode())


@pytest.mark.parametrize(("prompt", "ok"), [
    ("x", True), (["x", "y"], True), ([1, 2], True), ([[1], [2]], True), ([0], True), ("", False), ([[1], "x"], False), ([True], False),
])
def test_prompts(prompt: Any, ok: bool) -> None:
    raw = json.dumps({"model": "m", "prompt": prompt}).encode()
    if ok:
        read_text_request("/v1/completions", raw)
    else:
        with pytest.raises(InvalidValue):
            read_text_request("/v1/completions", raw)


@pytest.mark.parametrize("value", ["0", [1], {"a": 1}, 2**60])
def test_a_field_of_the_other_route_is_left_out_unread(value: object) -> None:
    """It was not checked: max_completion_tokens of a completion ended in a 500 (found by fuzzing)."""
    body = {"model": "m", "prompt": "x", "max_tokens": 3, "max_completion_tokens": value}
    asked = read_text_request("/v1/completions", json.dumps(body).encode())
    assert (asked.max_tokens, asked.dropped) == (3, ("max_completion_tokens",))
    assert "max_completion_tokens" not in asked.body
