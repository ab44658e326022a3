"""R5: requests that no engine should ever see."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.gateway.rig import CHAT, MESSAGES, chat, resident_kib
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Stack
from tests.reliability.wire import ask

pytestmark = pytest.mark.reliability
ROUTES = (CHAT, "/v1/completions", "/v1/images/generations")
ENDED = "rigserve_requests_total"
GOOD = '{"model":"solo","messages":[{"role":"user","content":"x"}],"max_tokens":2'


def refused(stack: Stack, path: str, body: Any, *statuses: int, param: str | None = None) -> dict[str, Any]:
    """The error of a refusal in OpenAI's shape. No engine has seen it, and it is counted."""
    before = stack.rose(ENDED, ending="refused")
    answer = stack.gateway.post(path, body)
    assert answer.status_code in (statuses or (400,)), answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-should-retry"] == "false"
    if param is not None:
        assert error["param"] == param
    assert all(engine.state()["seen"] == [] for engine in stack.engines)
    assert stack.rose(ENDED, ending="refused") == before + 1
    return error


def cpu_s(stack: Stack) -> float:
    """Processor time of the gateway: what it kept its loop busy with, however loaded this machine is."""
    with open(f"/proc/{stack.gateway.process.pid}/stat") as stat:
        numbers = stat.read().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@scenario(50)
@pytest.mark.parametrize("body", ["", "{", "[]", "null", "5", '"x"', "hello", b"\xff\xfe", b'{"model":"\xff"}', "{}", '{"model":5}'])
def test_bodies_that_are_no_request(stack: Stack, seen: Seen, body: str | bytes) -> None:
    for path in ROUTES:
        assert refused(stack, path, body)["type"] == "invalid_request_error"
    answer = stack.gateway.post(CHAT, GOOD + "}", headers={"content-type": "text/plain"})
    assert answer.status_code == 200, "JSON is JSON, whatever it is called"
    seen(status=400, body="invalid_request_error", metric="requests{ending=refused} +1 each", seats=stack.seats_free())


BOMBS = {
    "depth 100,000": b"[" * 100_000, "objects in objects": b'{"a":' * 100_000, "5,000 digits": b'{"seed":' + b"1" * 5000 + b"}",
    "5,000 digits, no end": b"1" * 5000, "900,000 keys": b"{" + b",".join(b'"%d":1' % i for i in range(900_000)) + b"}",
    "3,000,000 lists": b'{"prompt":[' + b"[]," * 3_000_000 + b"[]]}", "5,000,000 numbers": b'{"prompt":[' + b"1," * 4_900_000 + b"1]}",
    "2,000,000 strings": b'{"stop":[' + b'"a",' * 2_000_000 + b'"a"]}', "45,000 lists": b'{"prompt":[' + b"[]," * 45_000 + b"[]]}",
    "200 levels in a field": GOOD.encode() + b',"response_format":' + b'{"a":' * 200 + b"1" + b"}" * 201,
    "9 MB of quotes": b'{"model":"' + b'\\"' * 4_500_000 + b'"}',
}  # fmt: skip


@scenario(51)
@pytest.mark.parametrize("name", BOMBS)
def test_bodies_that_cost_much_to_read(stack: Stack, seen: Seen, name: str) -> None:
    """Less than 100 ms of the loop's time beyond what it takes to receive the bytes (10 MB: some 20 ms)."""
    before = cpu_s(stack)
    refused(stack, "/v1/completions", BOMBS[name])
    assert cpu_s(stack) - before < 0.15
    assert stack.gateway.post(CHAT, GOOD + "}").status_code == 200
    seen(status=400, loop="held up for less than 100 ms", metric="requests{ending=refused} +1", seats=stack.seats_free())


@scenario(51)
def test_a_key_that_is_there_twice(stack: Stack, seen: Seen) -> None:
    """What was checked is what the engine gets: the last one is checked, and the engines' parsers too take the last."""
    assert refused(stack, CHAT, GOOD + ',"temperature":0,"temperature":99}')["param"] == "temperature"
    seen(twice="the last one counts, here and in the engine")


@scenario(52)
@pytest.mark.parametrize("chunked", [False, True])
def test_50_mb(stack: Stack, seen: Seen, chunked: bool) -> None:
    body = b'{"model":"' + b"x" * 50_000_000 + b'"}'
    before = resident_kib(stack.gateway)
    content: Any = (body[i : i + 65536] for i in range(0, len(body), 65536)) if chunked else body
    answer = stack.gateway.http.post(CHAT, content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert resident_kib(stack.gateway) - before < 40_000
    assert stack.rose(ENDED, ending="refused", code="body_too_large") == 1
    assert stack.gateway.post(CHAT, GOOD + "}").status_code == 200
    seen(status=413, body="body_too_large", metric="requests{code=body_too_large} +1", memory="grows by less than 40 MB",
         seats=stack.seats_free())  # fmt: skip


@scenario(53)
@pytest.mark.parametrize("name", ['"\\ud800"', '"a\\u0000b"', '"a\\u202eb"', '"' + "x" * 10_000 + '"', '"a\\nb"', '"\\u001b[31m"'])
def test_strange_names(stack: Stack, seen: Seen, name: str) -> None:
    error = refused(stack, CHAT, f'{{"model":{name},"messages":[{{"role":"user","content":"x"}}]}}', 400, 404)
    assert len(error["message"]) < 1000
    stack.seats_free()
    for text in (error["message"], stack.gateway.log.read_text()):
        assert not any(c in text for c in "\u202e\x00\x1b")
        assert "x" * 300 not in text
    seen(status="400 / 404", log="no raw control character, no name of a client's making", metric="requests{ending=refused} +1", seats=0)


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", '"NaN"', "true", '"3"', str(2**80), "-1e400", "[]", "{}")
FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "max_completion_tokens", "seed", "top_logprobs", "min_tokens",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty", "prompt_logprobs", "thinking_token_budget",
)  # fmt: skip


@scenario(54)
@pytest.mark.parametrize("field", FIELDS)
def test_numbers_that_are_none(stack: Stack, seen: Seen, field: str) -> None:
    for number in NUMBERS:
        refused(stack, CHAT, GOOD + f',"{field}":{number}}}', param=field)
    seen(status=400, body="param names the field", metric=f"requests{{ending=refused}} +{len(NUMBERS)} each", seats=stack.seats_free())


@scenario(55)
@pytest.mark.parametrize(("field", "value"), [
    ("temperature", -1), ("temperature", 2.01), ("top_p", 2), ("top_p", 0), ("n", 128), ("n", 0), ("max_tokens", 10**9), ("max_tokens", 0),
    ("max_tokens", -1), ("top_logprobs", 10**6), ("stop", ["x"] * 1000), ("stop", "x" * 1001), ("presence_penalty", 3), ("seed", 2**63),
])  # fmt: skip
def test_sampling_out_of_range(stack: Stack, seen: Seen, field: str, value: Any) -> None:
    refused(stack, CHAT, {**json.loads(GOOD + "}"), field: value}, param=field)
    seen(status=400, body="param names the field", metric="requests{ending=refused} +1", seats=stack.seats_free())


@scenario(56)
def test_what_brought_engines_down(stack: Stack, seen: Seen) -> None:
    for bias in ({"99999999": 1}, {"x": 1}, {"-1": 1}, {"1": 101}, {"1": "a"}, [1]):
        refused(stack, CHAT, chat(logit_bias=bias), param="logit_bias")
    refused(stack, "/v1/completions", {"model": "solo", "prompt": "x", "echo": True, "max_tokens": 0}, param="max_tokens")
    answer = stack.gateway.post("/v1/completions", {"model": "solo", "prompt": "x", "max_tokens": 1, "best_of": 10**6})
    assert answer.headers["x-rigserve-dropped-fields"] == "best_of"
    assert "best_of" not in stack.solo.state()["seen"][0]["body"]
    assert stack.gateway.post(CHAT, GOOD + "}").status_code == 200
    seen(status=400, best_of="left out and named in a header", metric="requests{ending=refused} +1 each", seats=stack.seats_free())


@scenario(58)
def test_grammars(stack: Stack, seen: Seen) -> None:
    """Size, depth and width are bounded here; what an engine makes of a small evil one is bounded by its deadline and charged to it."""
    schema: Any = {"type": "object"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    for evil in ({"enum": [str(i) for i in range(10_000)]}, schema, {"pattern": "a" * 70_000}):
        wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": evil}}
        refused(stack, CHAT, chat(response_format=wanted), param="response_format")
        refused(stack, CHAT, chat(structured_outputs={"json": evil}), param="structured_outputs")
    stack.solo.fault("hang", times=1)
    answer = stack.gateway.post(CHAT, chat(structured_outputs={"regex": "(a+)+$"}, stream=True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert stack.gateway.post(CHAT, GOOD + "}").status_code == 200
    seen(large="400", evil="504 at the deadline when the engine hangs on it; the next request is normal",
         metric="requests{ending=refused} +1 each", seats=stack.seats_free())  # fmt: skip


@scenario(59)
def test_models_that_are_not_there(stack: Stack, seen: Seen) -> None:
    times = []
    for name in ("nobody", "solo2", "SOLO ", "twin/../solo") * 5:
        start = time.monotonic()
        assert refused(stack, CHAT, chat(name), 404)["code"] == "model_not_found"
        times.append(time.monotonic() - start)
    assert stack.rose(ENDED, model="other", code="model_not_found") == 20
    seen(status=404, body="model_not_found", metric="requests{model=other} +1 each", seats=stack.seats_free())


@scenario(60)
@pytest.mark.parametrize("name", ["../../etc/passwd", "%2e%2e%2fetc", "/etc/passwd", "http://127.0.0.1:1/x", "file:///etc/passwd", "a" * 64,
    "sha256:" + "0" * 64, "..", ".", "solo\\..\\x", "solo/../solo", "C:\\x", "\\\\host\\share"])  # fmt: skip
def test_names_that_are_paths(stack: Stack, seen: Seen, name: str) -> None:
    refused(stack, CHAT, chat(name), 404, 400)
    for spelt in (name, quote(name, safe="")):
        assert ask(stack.gateway, b"GET /v1/models/%b HTTP/1.1\r\nhost: localhost\r\n\r\n" % spelt.encode()).status in (404, 400)
    seen(status=404, metric="requests{ending=refused} +1", seats=stack.seats_free())


@scenario(61)
def test_extra_fields(stack: Stack, seen: Seen) -> None:
    for field in ("api_base", "base_url", "prompt_embeds", "chat_template", "lora_path", "api_key", "trust_remote_code", "cache_dir"):
        refused(stack, CHAT, chat(**{field: "http://127.0.0.1:1/"}), param=field)
    refused(stack, CHAT, chat(priority=-9), param="priority")
    answer = stack.gateway.post(CHAT, chat(max_tokens=1, metadata={"a": "b"}, cache_salt="mine", request_id="x"))
    assert answer.headers["x-rigserve-dropped-fields"] == "metadata, cache_salt, request_id"
    got = stack.solo.state()["seen"][0]["body"]
    assert not {"metadata", "request_id"} & set(got)
    assert got.get("cache_salt") != "mine"
    assert stack.gateway.post(CHAT, chat(max_tokens=1, priority=1)).status_code == 200
    assert "priority" not in stack.solo.state()["seen"][1]["body"], "it is for the queue here"
    seen(dangerous="400", unknown="left out, named in x-rigserve-dropped-fields", metric="requests{ending=refused} +1 each",
         seats=stack.seats_free())  # fmt: skip


@scenario(62)
def test_pictures_from_elsewhere(stack: Stack, seen: Seen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/x.png", f"https://localhost:{port}/", "file:///etc/passwd", "http://169.254.169.254/",
                    "data:text/html;base64,AAAA", "ftp://x/", "DATA:image/png;base64,AAAA", f"//127.0.0.1:{port}/", ""):  # fmt: skip
            for part in ({"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": url},
                         {"type": "input_image", "image_url": url}, {"type": "video_url", "video_url": {"url": url}}):  # fmt: skip
                messages = [{"role": "user", "content": [part]}]
                assert refused(stack, CHAT, chat(messages=messages))["param"].startswith("messages[0].content[0]")
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()
    seen(status=400, network="nothing connects", metric="requests{ending=refused} +1 each", seats=stack.seats_free())


def test_the_good_one_is_good(stack: Stack) -> None:
    """What the others change is what they are refused for."""
    assert stack.gateway.post(CHAT, {"model": "solo", "messages": MESSAGES}).status_code == 200
    assert stack.gateway.post(CHAT, GOOD + "}").status_code == 200
