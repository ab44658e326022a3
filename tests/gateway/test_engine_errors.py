"""What an engine's error means: status, code, whether another engine is asked."""

from __future__ import annotations

import json

import pytest

from services.gateway.engine_errors import of_answer, of_upstream
from services.gateway.upstream import ConnectFailed, ConnectionCut, GivenUp

LLAMACPP = {"error": {"code": 400, "message": "request (4031 tokens) exceeds the available context size (2048 tokens), try increasing it",
                      "type": "exceed_context_size_error", "n_prompt_tokens": 4031, "n_ctx": 2048}}
VLLM = {"error": {"message": "This model's maximum context length is 2048 tokens. However, you requested ...", "type": "BadRequestError",
                  "param": "input_tokens", "code": 400}}


@pytest.mark.parametrize(("status", "body", "code", "retry"), [
    (401, {}, "backend_failed", True), (403, {}, "backend_failed", True), (404, {"error": {"message": "no such model"}},
    "backend_failed", True),
    (400, LLAMACPP, "context_length_exceeded", False), (400, VLLM, "context_length_exceeded", False),
    (400, {"error": {"message": "bad field", "param": "stop"}}, "invalid_value", False), (422, {"detail": []}, "invalid_value", False),
    (413, {}, "invalid_value", False), (400, {"error": {"code": "image_too_large", "message": "m"}}, "image_too_large", False),
    (429, {}, "queue_full", True), (503, {"error": {"message": "Loading model"}}, "no_available_worker", True),
    (500, {"error": {"message": "CUDA out of memory. Tried to allocate"}}, "backend_out_of_memory", False),
    (500, {"error": {"message": "EngineCore died"}}, "backend_failed", True), (502, {}, "backend_failed", True), (302,
    {}, "backend_failed", True),
])
def test_the_tree(status: int, body: dict, code: str, retry: bool) -> None:
    failure = of_answer(status, json.dumps(body).encode())
    assert (failure.error.code, failure.retry) == (code, retry)


def test_words_and_param_of_the_engine_are_kept() -> None:
    failure = of_answer(400, b'{"error": {"message": "stop is too long", "param": "stop"}}')
    assert (failure.error.message, failure.error.param) == ("stop is too long", "stop")


@pytest.mark.parametrize("message", ["Traceback (most recent call last)", 'File "x.py", line 1', "failed in /usr/lib/x",
    "at 0x7fa29f46e160"])
def test_insides_are_not_shown(message: str) -> None:
    assert of_answer(500, json.dumps({"error": {"message": message}}).encode()).error.message == "The engine failed with 500."


@pytest.mark.parametrize("body", [b"", b"\xff", b"<html>", b"[]", b"null", b'{"error": 5}'])
def test_any_body(body: bytes) -> None:
    for status in (400, 404, 429, 500, 503):
        assert of_answer(status, body).error.message


def test_retry_after_is_passed_on() -> None:
    assert of_answer(503, b"", b"17").error.headers()["retry-after"] == "17"


def test_no_connection_takes_the_backend_down() -> None:
    assert of_upstream(ConnectFailed("x", refused=True)).down == "its port refuses connections: the engine is down"
    assert of_upstream(ConnectFailed("no connection to http://w:1 within 1.3 s")).down == (
        "it can't be reached: no connection to http://w:1 within 1.3 s")
    assert of_upstream(ConnectionCut("x", unanswered=True)).down is None
    given_up = of_upstream(GivenUp("x"))
    assert (given_up.kind, given_up.retry, given_up.down) == ("cut", True, None)
