"""Tools and schemas: wrong shapes never reach an engine; a schema that an engine fails on is the request's fault, not the engine's."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.gateway.engine_errors import of_stream
from services.gateway.tools import grammar_param
from tests.gateway.conftest import Loose
from tests.gateway.rig import CHAT, chat, start_gateway, until

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"allOf": [{"$ref": "#"}]}}}
CARRIERS: list[tuple[str, dict[str, Any]]] = [
    ("response_format", {"response_format": SCHEMA}), ("structured_outputs", {"structured_outputs": {"regex": "(["}}),
    ("tools", {"tools": [TOOL]}),
]


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(("tools", "param"), [
    ("x", "tools"), ({}, "tools"), (5, "tools"), ([5], "tools[0]"), ([None], "tools[0]"), ([{}], "tools[0]"), ([[]], "tools[0]"),
    ([{"type": "web"}], "tools[0]"), ([TOOL, {"type": 5}], "tools[1]"), ([{"type": "function"}], "tools[0].function"),
    ([{"type": "function", "function": "f"}], "tools[0].function"), ([named("")], "tools[0].function.name"),
    ([named(None)], "tools[0].function.name"), ([named(5)], "tools[0].function.name"), ([named("a b")], "tools[0].function.name"),
    ([named("é")], "tools[0].function.name"), ([named("f\n")], "tools[0].function.name"), ([named("x" * 65)], "tools[0].function.name"),
    ([{"type": "function", "function": {"name": "f", "parameters": "x"}}], "tools[0].function.parameters"),
    ([{"type": "function", "function": {"name": "f", "parameters": []}}], "tools[0].function.parameters"),
    ([{"type": "function", "function": {"name": "f", "description": 5}}], "tools[0].function.description"),
])
def test_tools_that_are_none(loose: Loose, tools: Any, param: str) -> None:
    assert loose.gateway.error(CHAT, chat(tools=tools), 400)["param"] == param
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize("choice", [
    "", "any", "function", 5, True, [], {}, {"type": "function"}, {"function": {"name": "f"}}, {"type": "x", "function": {"name": "f"}},
    named("g"), named(""), named(None), named(["f"]), {"type": "function", "function": "f"}, {"type": "function", "name": "f"},
])
def test_tool_choices_that_are_none(loose: Loose, choice: Any) -> None:
    assert loose.gateway.error(CHAT, chat(tools=[TOOL], tool_choice=choice), 400)["param"] == "tool_choice"
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize("choice", ["required", named("f")])
@pytest.mark.parametrize("tools", [None, []])
def test_a_choice_needs_tools(loose: Loose, choice: Any, tools: Any) -> None:
    assert loose.gateway.error(CHAT, chat(tools=tools, tool_choice=choice), 400)["param"] == "tool_choice"
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize("choice", ["none", "auto", "required", named("f"), named("a.b-c_9"), None])
def test_good_ones_are_forwarded(loose: Loose, choice: Any) -> None:
    body = chat(tools=[TOOL, named("a.b-c_9"), named("x" * 64)], tool_choice=choice, max_tokens=1)
    assert loose.gateway.post(CHAT, body).status_code == 200
    assert loose.solo.state()["seen"][0]["body"] == body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("param", "more"), CARRIERS)
def test_a_500_to_a_schema_is_the_requests_fault(loose: Loose, param: str, more: dict[str, Any], stream: bool) -> None:
    """Asked once, told 400, nothing charged; the fault would have met the other twin as well."""
    before = loose.gateway.backends()
    for engine in (loose.one, loose.two):
        engine.fault("error_500")
    error = loose.gateway.error(CHAT, chat("twin", stream=stream, **more), 400)
    assert (error["code"], error["type"], error["param"]) == ("invalid_value", "invalid_request_error", param)
    assert "could not use this schema" in error["message"]
    assert len(loose.one.state()["seen"] + loose.two.state()["seen"]) == 1, "not tried again elsewhere"
    after = loose.gateway.backends()
    for ident in after:
        assert (after[ident]["failed"], after[ident]["failures"]) == (before[ident]["failed"], before[ident]["failures"])
        assert after[ident]["state"] == "ready"
    assert loose.gateway.last_request()["ending"] == "refused"


def test_a_dead_engine_core_is_no_schemas_fault(loose: Loose) -> None:
    loose.solo.fault("error_event", after_tokens=0)
    assert loose.gateway.post(CHAT, chat(stream=True, response_format=SCHEMA)).status_code == 502
    assert of_stream("maximum recursion depth exceeded", told=True).own_500
    assert not of_stream("the engine sent an event that is not JSON", told=False).own_500
    assert not of_stream("CUDA out of memory", told=True).own_500


@pytest.mark.parametrize(("fault", "status"), [("out_of_memory", 500), ("error_503", 503), ("die_before_first", 502)])
def test_other_failures_stay_the_engines(loose: Loose, fault: str, status: int) -> None:
    loose.solo.fault(fault)
    assert loose.gateway.post(CHAT, chat(response_format=SCHEMA)).status_code == status


@pytest.mark.parametrize("more", [{}, {"tools": [TOOL], "tool_choice": "none"}, {"response_format": {"type": "json_object"}}])
def test_without_a_schema_a_500_is_the_engines_and_another_is_asked(loose: Loose, more: dict[str, Any]) -> None:
    loose.one.fault("error_500")
    loose.two.fault("error_500")
    assert loose.gateway.post(CHAT, chat("twin", **more)).status_code == 502
    assert len(loose.one.state()["seen"]) == len(loose.two.state()["seen"]) == 1


class Failing(BaseHTTPRequestHandler):
    """An engine that fails on every prompt as vLLM does: 500, or in a stream one error event. `mortal`: that ends it."""

    protocol_version = "HTTP/1.1"
    mortal = False
    dead = False

    def do_GET(self) -> None:
        self.answer(503 if type(self).dead else 200, b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).dead = self.mortal
        error = b'{"error": {"message": "maximum recursion depth exceeded", "code": 500}}'
        if body.get("stream"):
            self.answer(200, b"data: " + error + b"\n\ndata: [DONE]\n\n", "text/event-stream")
        else:
            self.answer(500, error)

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(("mortal", "status"), [(False, 400), (True, 502)])
def test_an_engine_that_dies_of_a_schema_is_charged(tmp_path: Path, mortal: bool, status: int) -> None:
    """Only one whose health route still answers may blame the schema; in a stream as in a whole answer."""
    kind = type("Kind", (Failing,), {"mortal": mortal})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as engine:
        threading.Thread(target=engine.serve_forever, args=(0.01,), daemon=True).start()
        gateway = start_gateway(tmp_path, f"--backend=m=http://127.0.0.1:{engine.server_port}", "--poll-s", "30")
        try:
            gateway.wait_ready()
            for number, stream in enumerate((False, True), 1):
                error = gateway.error(CHAT, chat("m", stream=stream, response_format=SCHEMA), status)
                assert error["param"] == ("response_format" if status == 400 else None)
                charged = number if mortal else 0
                until(lambda wanted=charged: gateway.backends()["backend-0"]["failed"] == wanted, f"{charged} failures are counted")
        finally:
            gateway.stop()
            engine.shutdown()


@pytest.mark.parametrize(("body", "param"), [
    ({}, None), ({"response_format": {"type": "text"}}, None), ({"response_format": {"type": "json_object"}}, None),
    ({"response_format": {"type": "json_object", "schema": {"a": 1}}}, "response_format"), ({"response_format": SCHEMA}, "response_format"),
    ({"response_format": {"type": "structural_tag"}}, "response_format"), ({"tools": []}, None), ({"tools": None}, None),
    ({"tools": [TOOL], "structured_outputs": {"regex": "a"}}, "structured_outputs"), ({"tools": [TOOL], "tool_choice": "none"}, None),
])
def test_what_carries_a_grammar(body: dict[str, Any], param: str | None) -> None:
    assert grammar_param(body) == param
