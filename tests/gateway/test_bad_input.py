"""Bad input: always the OpenAI error shape with the right status, never a 500, and never at an engine."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.conftest import Loose
from tests.gateway.rig import CHAT, MESSAGES, GatewayProcess, chat, resident_kib

TEXT = ("/v1/chat/completions", "/v1/completions", "/v1/images/generations", "/v1/fit")
GOOD = b'{"model":"solo","messages":[{"role":"user","content":"x"}],"max_tokens":1}'


@pytest.mark.parametrize("path", TEXT)
@pytest.mark.parametrize("body", [
    b"", b" ", b"{", b"[]", b"null", b"5", b'"x"', b"not json", b"\xff\xfe", b'{"model":"\xff"}', b'{"model":"\\ud800"}', b"[" * 100_000,
    b'{"a":' * 100_000, b"1" * 5000, b"{}", b'{"model":null}', b'{"model":5}', b'{"model":""}', b'{"model":["solo"]}', b"\x00" * 100,
    b'{"model":"' + b"x" * 10_000 + b'"}', json.dumps({str(i): i for i in range(20_000)}).encode(),
    b'{"model":"a\\u0000b\\u202e","prompt":[],"messages":[],"context_tokens":0}',
])
def test_broken_bodies(gateway: GatewayProcess, path, body):
    start = time.monotonic()
    error = gateway.error(path, body, 400)
    assert error["type"] == "invalid_request_error"
    assert time.monotonic() - start < 1


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"', '"3"', "true", "[]", "{}", str(2**80), "-5e300", "1e300"]
FIELDS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "n", "seed", "presence_penalty", "top_logprobs",
          "frequency_penalty", "repetition_penalty", "length_penalty", "min_tokens", "prompt_logprobs", "truncate_prompt_tokens"]


@pytest.mark.parametrize("field", FIELDS)
def test_numbers_that_are_none(loose: Loose, field):
    for number in NUMBERS:
        body = GOOD[:-1] + f',"{field}":{number}}}'.encode()
        assert loose.gateway.error(CHAT, body, 400)["param"] == field, number
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize(("field", "value"), [
    ("temperature", -1), ("temperature", 2.1), ("top_p", 2), ("top_p", 0), ("n", 0), ("n", 128), ("max_tokens", 0), ("max_tokens", -1),
    ("max_tokens", 10**9), ("top_logprobs", 10**6), ("top_logprobs", -1), ("logprobs", 5), ("stop", ["x"] * 1000), ("stop", [5]),
    ("stop", {}),
    ("stop", "x" * 5000), ("logit_bias", {"x": 1}), ("logit_bias", {"1": 1000}), ("logit_bias", []), ("logit_bias", {"-1": 1}),
    ("stream", "yes"), ("stream", 1), ("stream_options", {"include_usage": True}), ("tools", {}), ("tool_choice", "always"),
    ("tool_choice", 5), ("response_format", "json"), ("response_format", {"x": {"enum": ["a"] * 5000}}),
    ("seed", 1.5), ("seed", 2**63), ("user", 5), ("reasoning_effort", "huge"), ("stop_token_ids", ["a"]), ("bad_words", "x"),
    ("chat_template_kwargs", {"chat_template": "{{ x }}"}), ("chat_template_kwargs", {"x": {}}), ("structured_outputs", []),
    ("min_tokens", 2), ("prompt_logprobs", 21), ("repetition_penalty", 0), ("documents", [5]),
])
def test_values_out_of_range(loose: Loose, field, value):
    error = loose.gateway.error(CHAT, {**json.loads(GOOD), field: value}, 400)
    assert error["param"] == field
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize("field", [
    "api_base", "base_url", "api_key", "lora_path", "lora_request", "prompt_embeds", "chat_template", "kv_transfer_params",
    "mm_processor_kwargs", "media_io_kwargs", "vllm_xargs", "logits_processors", "model_path", "webhook", "callback_url",
    "trust_remote_code",
    "functions", "extra_headers", "cache_dir", "adapter_path", "id_slot", "api_version",
])
def test_dangerous_fields_are_refused(loose: Loose, field):
    error = loose.gateway.error(CHAT, {**json.loads(GOOD), field: "http://127.0.0.1:1/"}, 400)
    assert error["param"] == field
    assert field in error["message"]
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize(("field", "value"), [
    ("guided_choice", ["a", "b"]), ("guided_regex", "a+"), ("guided_json", {"type": "object"}), ("guided_grammar", "root ::= x"),
    ("guided_whitespace_pattern", " "), ("guided_decoding_backend", "x"), ("grammar", "root ::= x"), ("json_schema", {}),
])
def test_constraints_that_no_engine_reads_are_refused(loose: Loose, field, value):
    for path, prompt in ((CHAT, {"messages": MESSAGES}), ("/v1/completions", {"prompt": "x"})):
        error = loose.gateway.error(path, {"model": "solo", "max_tokens": 1, **prompt, field: value}, 400)
        assert error["param"] == field
        assert "structured_outputs (vLLM) or response_format" in error["message"]
    assert loose.solo.state()["seen"] == []
    assert loose.gateway.post(CHAT, chat(max_tokens=1, **{field: None})).status_code == 200
    assert field not in loose.solo.state()["seen"][0]["body"]


def test_unknown_fields_are_left_out_and_named(loose: Loose):
    body = {**json.loads(GOOD), "metadata": {"a": "b"}, "verbosity": "low", "évil\r\nx: y": 1, "cache_salt": "s",
        "request_id": "r"}
    answer = loose.gateway.post(CHAT, body)
    assert answer.status_code == 200
    assert answer.headers["x-rigserve-dropped-fields"] == "metadata, verbosity, ?vil??x??y, cache_salt, request_id"
    assert loose.solo.state()["seen"][0]["body"] == json.loads(GOOD)


def test_known_fields_pass_untouched(loose: Loose):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}]
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    body = chat(
        tools=tools, tool_choice={"type": "function", "function": {"name": "f"}}, response_format=schema, logprobs=True, top_logprobs=5,
        stop=["\n"], seed=-3, min_p=0.1, top_k=-1, repetition_penalty=1.1, ignore_eos=True, min_tokens=1, max_tokens=4, temperature=0,
        structured_outputs={"regex": "[0-9]+"}, chat_template_kwargs={"enable_thinking": False}, logit_bias={"5": -100}, user="u",
        parallel_tool_calls=False, stop_token_ids=[1, 2], n=2, stream=True, stream_options={"include_usage": True},
        skip_special_tokens=False,
    )
    assert loose.gateway.post(CHAT, body).status_code == 200
    assert loose.solo.state()["seen"][0]["body"] == body


def test_the_bytes_are_the_clients_own(loose: Loose):
    """Key order and number spelling survive; usage is asked for without touching the rest."""
    raw = '{ "messages":[{"role":"user","content":"\\u00e9"}], "temperature":0.10, "model":"solo","max_tokens":1 ,"stream":true } \n'
    assert loose.gateway.post(CHAT, raw).status_code == 200
    seen = loose.solo.state()["seen"][0]
    assert seen["headers"]["content-length"] == str(len(raw.rstrip()) + len(',"stream_options":{"include_usage":true}'))


@pytest.mark.parametrize("messages", [
    [], {}, "x", [5], [{}], [{"role": "user"}], [{"role": "king", "content": "x"}], [{"role": 5, "content": "x"}], [{"content": "x"}],
    [{"role": "user", "content": 5}], [{"role": "user", "content": []}], [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"text": "x"}]}], [{"role": "user", "content": ["x"]}], [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "x", "image_url": "http://h/"}]}],
    [{"role": "user", "content": [{"image_url": "http://127.0.0.1/x"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}],
    [{"role": "user", "content": [{"type": "image_embeds", "image_embeds": "x"}]}],
    [{"role": "assistant", "content": None, "tool_calls": "x"}], [{"role": "user", "content": "x", "name": 5}],
])
def test_messages_that_are_none(loose: Loose, messages):
    error = loose.gateway.error(CHAT, chat(messages=messages), 400)
    assert error["param"].startswith("messages")
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [1, "a"], [-1], [1.5], [True], {"a": 1}, 5, [[1], "a"], ["a"] * 100, [10**9]])
def test_prompts_that_are_none(loose: Loose, prompt):
    assert loose.gateway.error("/v1/completions", {"model": "solo", "prompt": prompt}, 400)["param"] == "prompt"


def test_deep_nesting_in_a_field(gateway: GatewayProcess):
    body = GOOD[:-1] + b',"response_format":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}"
    assert gateway.error(CHAT, body, 400)["param"] == "response_format"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/chat", "/v1/chat/completions/", "//v1/chat/completions", "/tokenize",
                                  "/invocations", "/pause", "/slots", "/docs", "/redoc", "/v1/images/files/../../etc/passwd",
                                  "/v1/images/files/x.png", "/status", "/restart", "/v1/%2e%2e/metrics"])
def test_unknown_routes(gateway: GatewayProcess, path):
    for method in ("GET", "POST"):
        answer = gateway.http.request(method, path)
        assert answer.status_code == 404 or (method, answer.status_code) == ("POST", 405), answer.text
        assert answer.json()["error"]["code"] in ("route_not_found", "method_not_allowed")


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("PUT", CHAT), ("DELETE", "/v1/models"), ("POST", "/v1/cards"),
("GET", "/v1/fit"),
                                              ("OPTIONS", CHAT), ("BREW", "/v1/models"), ("PATCH", "/healthz")])
def test_wrong_methods(gateway: GatewayProcess, method, path):
    answer = gateway.http.request(method, path)
    assert answer.status_code in (400, 405)
    assert answer.json()["error"]["code"] == ("method_not_allowed" if answer.status_code == 405 else "invalid_value")


def test_head_is_get_without_the_body(gateway: GatewayProcess):
    answer, got = gateway.http.head("/v1/models"), gateway.http.get("/v1/models")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == got.headers["content-length"]
    refused = gateway.http.head(CHAT)
    assert (refused.status_code, refused.content, refused.headers["allow"]) == (405, b"", "POST")


def test_50_mb(gateway: GatewayProcess):
    """Refused by its length at once; without a length as soon as it is too much; and never kept."""
    body = b'{"model":"' + b"x" * 50_000_000 + b'"}'
    before = resident_kib(gateway)
    start = time.monotonic()
    assert gateway.error(CHAT, body, 413)["code"] == "body_too_large"
    answer = gateway.http.post(CHAT, content=(body[i : i + 65536] for i in range(0, len(body), 65536)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert time.monotonic() - start < 5
    assert resident_kib(gateway) - before < 40_000, "12 MiB may be read before it is known"
    assert gateway.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("raw", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n",
])
def test_what_is_not_proper_http(gateway: GatewayProcess, raw):
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=3) as client:
        client.sendall(raw)
        received = client.recv(65536)
        while b"}}" not in received:
            received += client.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_value"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]", "[::1]:9"])
def test_names_of_loopback_are_allowed(gateway: GatewayProcess, host):
    assert gateway.http.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil", "127.0.0.1.evil.example", "localhost.evil", "[::2]", "0x7f.1", "", "169.254.169.254"])
def test_other_names_are_not(gateway: GatewayProcess, host):
    assert gateway.http.get("/v1/models", headers={"host": host}).status_code == 400


def test_two_requests_of_one_id_are_two_to_the_engine(loose: Loose):
    for _ in range(2):
        loose.gateway.post(CHAT, GOOD, headers={"x-request-id": "mine"})
    assert loose.gateway.last_request()["request_id"] == "mine"
    seen = [request["headers"]["x-request-id"] for request in loose.solo.state()["seen"]]
    assert len(set(seen)) == 2
    assert "mine" not in seen


def test_request_id(gateway: GatewayProcess):
    assert gateway.http.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 200, "a\tb", '"'):
        assert len(gateway.http.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"]) == 32


def test_a_prompt_is_never_in_the_log(loose: Loose):
    canary = "canary-9f3b"
    loose.gateway.post(CHAT, chat(messages=[{"role": "user", "content": canary}], max_tokens=1),
        headers={"authorization": f"Bearer {canary}"})
    loose.gateway.post(CHAT, chat(canary))
    loose.gateway.post(CHAT, {"model": "solo", "messages": canary})
    loose.gateway.post(CHAT, b'{"model":"solo","messages":"' + canary.encode())
    loose.solo.fault("error_500")
    loose.gateway.post(CHAT, chat(messages=[{"role": "user", "content": canary}]))
    assert canary not in loose.gateway.log.read_text()
    assert canary not in loose.gateway.http.get("/metrics").text
    assert canary not in loose.gateway.http.get("/v1/throughput").text


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)
NAMES = st.sampled_from([*FIELDS, "messages", "model", "stream", "stop", "tools", "tool_choice", "response_format", "logit_bias",
"stream_options",
                         "chat_template_kwargs", "structured_outputs", "user", "prompt", "documents"]) | st.text(max_size=12)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_json_gets_an_answer_that_is_no_500(loose: Loose, fields):
    body = json.dumps({"model": "solo", "messages": MESSAGES, "max_tokens": 1, **fields}).encode()
    answer = loose.gateway.post(CHAT, body)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(TEXT), st.binary(max_size=200) | st.tuples(st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=3)))
def test_any_bytes_get_an_answer_that_is_no_500(gateway: GatewayProcess, path, change):
    body = change if isinstance(change, bytes) else GOOD[: change[0]] + change[1] + GOOD[change[0] + len(change[1]) :]
    answer: httpx.Response = gateway.post(path, body)
    assert answer.status_code in (200, 400, 404), answer.text
