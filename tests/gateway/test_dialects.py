"""Anthropic's messages and OpenAI's responses: what goes on, what is refused, and their streams and usage."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from services.gateway.engine_errors import lacks_route
from services.gateway.event_stream import EventStream
from services.gateway.text_request import Route, TextRequest, read_text_request
from services.wire.errors import InvalidValue
from services.wire.shapes import TokenUsage, plain_usage
from tests.fakes import answers
from tests.gateway.conftest import Loose
from tests.gateway.rig import until

MESSAGES: Route = "/v1/messages"
RESPONSES: Route = "/v1/responses"
PIXEL = "data:image/png;base64,aGk="
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
TURN = [{"role": "user", "content": "one two three"}]


def messages(**more: Any) -> TextRequest:
    return read_text_request(MESSAGES, json.dumps({"model": "solo", "max_tokens": 4, "messages": TURN, **more}).encode())


def responses(**more: Any) -> TextRequest:
    return read_text_request(RESPONSES, json.dumps({"model": "solo", "input": "one two three", **more}).encode())


@pytest.mark.parametrize("more", [
    {"system": "Be brief."}, {"system": [{"type": "text", "text": "x"}]}, {"stop_sequences": ["x"]},
    {"tools": [{"name": "f", "input_schema": {}}]},
    {"messages": [*TURN, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"url": "x"}}]},
                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [PICTURE]}]}]},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"tool_choice": {"type": "any"}},
])  # fmt: skip
def test_messages_that_go_on(more: dict[str, Any]) -> None:
    request = messages(metadata={"user_id": "x"}, **more)
    assert (request.kind, request.max_tokens, request.dropped) == ("text", 4, ("metadata",))
    assert json.loads(request.for_engine("id")) == {"model": "id", "max_tokens": 4, "messages": TURN, **more}
    assert request.pictures == ("messages" in more)


@pytest.mark.parametrize(("field", "value"), [
    ("max_tokens", None), ("max_tokens", 0), ("messages", []), ("messages", [{"role": "tool", "content": "x"}]), ("messages", ["x"]),
    ("messages", [{"role": "user", "content": [{"type": "document"}]}]), ("messages", [{"role": "user", "content": [{"role": "user"}]}]),
    ("messages", [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]),
    ("messages", [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image", "source": {"type": "file"}}]}]}]),
    ("system", []), ("system", [PICTURE]), ("tools", [{"type": "web_search_20250305", "name": "web_search"}]), ("tools", [{}]),
    ("mcp_servers_url", "http://x"), ("temperature", 3), ("chat_template", "x"),
])  # fmt: skip
def test_messages_that_do_not(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        messages(**{field: value})
    assert (refused.value.param or "").startswith(field)


@pytest.mark.parametrize("more", [
    {"instructions": "x", "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}},
    {"tools": [{"type": "function", "name": "f"}]},
    {"input": [{"role": "user", "content": "x"}, {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
               {"type": "function_call_output", "call_id": "1", "output": "2"}]},
    {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"},
                                                            {"type": "input_image", "image_url": PIXEL}]}]},
])  # fmt: skip
def test_responses_that_go_on(more: dict[str, Any]) -> None:
    request = responses(store=True, background=False, include=[], max_output_tokens=7, **more)
    assert (request.max_tokens, request.output_tokens, request.dropped) == (7, 7, ("include",))
    sent = json.loads(request.for_engine("solo"))
    assert sent == {"model": "solo", "input": "one two three", "background": False, "max_output_tokens": 7, **more, "store": False}


@pytest.mark.parametrize(("field", "value"), [
    ("previous_response_id", "resp_1"), ("background", True), ("conversation", "c"), ("prompt", {"id": "p"}), ("input", None),
    ("input", []),
    ("tools", [{"type": "mcp", "server_label": "x", "server_url": "http://x"}]), ("tools", [{"type": "web_search"}]),
    ("tools", [{"type": "code_interpreter", "name": "x"}]), ("tool_choice", "always"), ("max_output_tokens", 0),
    ("input", [{"type": "item_reference", "id": "x"}]), ("input", [{"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}]),
    ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}]),
    ("input", [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]), ("input", [{"role": "user", "content": 5}]),
])  # fmt: skip
def test_responses_that_do_not(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        responses(**{field: value})
    assert (refused.value.param or "").startswith(field)


@pytest.mark.parametrize("route", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_streams_pass_as_they_came(route: Route, cut: int) -> None:
    sent = b"".join(answers.dialect_events(route, "m", 7, 3))
    stream, got = EventStream(False, 100), b""
    for at in range(0, len(sent), cut):
        got += stream.feed(sent[at : at + cut], float(at))
    stream.end()
    assert (got, stream.done, stream.broken) == (sent, True, None)
    assert (stream.usage, stream.first_s is not None) == (TokenUsage(7, 3, stream.usage.cached_tokens if stream.usage else None), True)


@pytest.mark.parametrize("route", [MESSAGES, RESPONSES])
def test_streams_that_break(route: Route) -> None:
    events = answers.dialect_events(route, "m", 7, 3)
    for tail, told in (([], False), ([b"data: {]\n\n"], False), ([b"oops\n\n"], False), ([b"data: [DONE]\n\n"], False),
                       ([b'event: error\ndata: {"type":"error","error":{"message":"died"}}\n\n'], True),
                       ([b'data: {"type":"response.failed","response":{"error":{"message":"died"}}}\n\n'], True)):
        stream = EventStream(False, 100)
        assert stream.feed(b"".join([*events[:3], *tail]), 1.0) == b"".join(events[:3])
        stream.end()
        assert (stream.broken is not None, stream.told, stream.done) == (True, told, False)
    endless = EventStream(False, 3)
    endless.feed(b"".join(events), 1.0)
    assert endless.broken == "the engine went on past the tokens that were asked for"


def test_usage_of_both() -> None:
    """Anthropic's input leaves out what a cache gave; OpenAI's holds it."""
    assert plain_usage({"input_tokens": 1, "cache_read_input_tokens": 30, "output_tokens": 3}) == TokenUsage(31, 3, 30)
    assert plain_usage({"input_tokens": 31, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 30}}) == TokenUsage(31, 3, 30)
    assert plain_usage({"output_tokens": 3}) is None
    assert plain_usage(None) is None


def test_an_engine_without_the_route() -> None:
    assert lacks_route(MESSAGES, 404, b'{"detail":"Not Found"}')
    assert lacks_route("/v1/rerank", 501, b"This server does not support reranking")
    assert not lacks_route(MESSAGES, 404, b"The model `x` does not exist.")
    assert not lacks_route("/v1/completions", 404, b"")


@pytest.fixture(params=[MESSAGES, RESPONSES])
def asked(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    own = {"max_tokens": 4, "messages": TURN} if request.param == MESSAGES else {"max_output_tokens": 4, "input": "a b c d e f g"}
    return request.param, {"model": "solo", **own}


@pytest.mark.slow
def test_whole_and_streamed(loose: Loose, asked: tuple[str, dict[str, Any]]) -> None:
    route, body = asked
    for streams in (False, True):
        answer: httpx.Response = loose.gateway.post(route, body | {"stream": streams})
        assert answer.status_code == 200, answer.text
        if streams:
            assert answer.content == b"".join(answers.dialect_events(route, "solo", 7, 4))
        else:
            assert answer.json() == answers.dialect(route, "solo", 7, 4)
        wanted = {"route": route, "stream": streams, "ending": "served", "prompt_tokens": 7, "output_tokens": 4}
        until(lambda wanted=wanted: wanted.items() <= loose.gateway.last_request().items(), f"{wanted} is logged")
    if route == RESPONSES:
        assert all(entry["body"]["store"] is False for entry in loose.solo.state()["seen"])


@pytest.mark.slow
def test_a_broken_stream_never_ends_as_if_it_were_whole(loose: Loose, asked: tuple[str, dict[str, Any]]) -> None:
    route, body = asked
    for mode in ("eof_without_done", "error_event"):
        loose.solo.fault(mode, after_tokens=3, times=1)
        got: list[bytes] = []
        with loose.gateway.http.stream("POST", route, json=body | {"stream": True}) as answer, pytest.raises(httpx.RemoteProtocolError):
            got.extend(answer.iter_raw())
        assert b'"error"' in b"".join(got)
        loose.gateway.wait_ready("backend-0")


@pytest.mark.slow
def test_the_openai_sdk_reads_responses(loose: Loose) -> None:
    with loose.gateway.sdk() as client:
        assert client.responses.create(model="solo", input="x", max_output_tokens=2).output_text == "w0 w1"
        with client.responses.create(model="solo", input="x", max_output_tokens=2, stream=True) as stream:
            assert [event.type for event in stream][-1] == "response.completed"
