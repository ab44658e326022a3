"""Anything as a request: never a 500, never a traceback, never a loop held up for 100 ms. `make fuzz N=100000` gives it more inputs.

How long the loop is held up is measured as processor time of the gateway's first thread, which runs it: this machine is shared.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.gateway import fields
from tests.gateway.rig import GatewayProcess
from tests.reliability.stack import WAYS, Stack, connect

pytestmark = pytest.mark.reliability
INPUTS = int(os.environ.get("FUZZ_INPUTS", "400"))
MOST_S = 0.1
ALLOWED = {200, 400, 404, 413, 422, 429}
FUZZED = settings(
    max_examples=max(1, INPUTS // 4), deadline=None, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck), derandomize="FUZZ_INPUTS" not in os.environ,
)  # fmt: skip


@pytest.fixture(scope="module", params=WAYS)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("fuzz"), request.param, "--limit-queue=64", "--limit-backend-slots=64")
    yield stack
    try:
        stack.gateway.last_request()  # waits until all seats are free and the log is written
        unforeseen = [line for line in stack.gateway.log.read_text().splitlines() if '"event":"request"' not in line]
        said = "\n".join(unforeseen)
        assert "Traceback" not in said, said[-6000:]  # first, so that a rare failure explains itself
        assert stack.rose("rigserve_requests_total", code="internal_error") == 0, said[-6000:]
    finally:
        stack.stop()


def loop_s(gateway: GatewayProcess) -> float:
    with open(f"/proc/{gateway.process.pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 1e308, "", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=10,
)  # fmt: skip
IMAGE = ("model", "prompt", "negative_prompt", "n", "size", "response_format", "output_format", "steps", "seed", "guidance_scale", "user")
FIT = ("model", "cards", "context_tokens", "sequences", "engine", "variant", "width_px", "height_px", "batch", "steps")
TABLES = {"/v1/chat/completions": fields.CHAT, "/v1/completions": fields.COMPLETION, "/v1/images/generations": IMAGE, "/v1/fit": FIT}
OTHERS = [*fields.REFUSED, "cards", "context_tokens", "sequences", "engine", "variant", "width_px", "height_px", "grammar", "api_base"]
OF_ANY_ROUTE = sorted({name for table in TABLES.values() for name in table})  # left out here, and so not checked, may be read there


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A good body with some fields of its table (or others) that hold anything, sometimes cut or changed in a byte."""
    path = draw(st.sampled_from(list(TABLES)))
    body: dict[str, Any] = {"model": "solo", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "max_tokens": 1}
    names = st.sampled_from([*TABLES[path], *OTHERS]) | st.sampled_from(OF_ANY_ROUTE) | st.text(max_size=10)
    body |= draw(st.dictionaries(names, JSON, max_size=3))
    raw = json.dumps(body).encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 4)) :]
    return path, raw


@FUZZED
@given(asked=bodies())
def test_any_field(fuzzed: Stack, asked: tuple[str, bytes]) -> None:
    path, raw = asked
    before = loop_s(fuzzed.gateway)
    answer = fuzzed.gateway.http.post(path, content=raw)
    assert loop_s(fuzzed.gateway) - before < MOST_S
    assert answer.status_code in ALLOWED, answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


GOOD = b'{"model":"solo","messages":[{"role":"user","content":"x"}],"max_tokens":1}'
LINES = [b"POST /v1/chat/completions HTTP/1.1", b"GET /v1/models HTTP/1.1", b"POST /v1/completions HTTP/1.0", b"HEAD /metrics HTTP/1.1",
         b"OPTIONS * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET http://localhost/healthz HTTP/1.1", b"PRI * HTTP/2.0",
         b"POST //v1/fit?x HTTP/1.1"]  # fmt: skip
HEADERS = [b"host: localhost", b"content-length: 74", b"content-length: 5", b"transfer-encoding: chunked", b"connection: close",
           b"upgrade: h2c", b"connection: upgrade",
           b"expect: 100-continue", b"content-encoding: gzip", b"origin: null", b"x-request-id: \xff",
           b"authorization: Bearer x", b"authorization: Basic \x80", b"trailer: x", b"te: trailers", b"x: " + b"y" * 5000]  # fmt: skip
BODIES = [GOOD, b"4a\r\n" + GOOD + b"\r\n0\r\n\r\n", b"0\r\n\r\n", b"", b"ffffffffffffffff\r\n", b"5;x=y\r\nhello\r\n0\r\na: b\r\n\r\n"]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Requests made of parts that go together, or don't; then changed in some bytes, and cut into the pieces in which they are sent."""
    raw = b""
    for _ in range(draw(st.integers(1, 2))):
        heads = draw(st.lists(st.sampled_from(HEADERS), max_size=4))
        if draw(st.booleans()):
            heads = [b"host: localhost", b"content-length: 74", *heads]
        raw += b"\r\n".join([draw(st.sampled_from(LINES)), *heads]) + b"\r\n\r\n" + draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=2)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@FUZZED
@given(pieces=streams())
def test_any_bytes(fuzzed: Stack, pieces: list[bytes]) -> None:
    before = loop_s(fuzzed.gateway)
    received = b""
    with connect(fuzzed.gateway) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(0.02)
        try:
            for piece in pieces:
                client.sendall(piece)
            while part := client.recv(65536):
                received += part
        except (TimeoutError, ConnectionError):
            pass  # it waits for more, or it has had enough
    assert loop_s(fuzzed.gateway) - before < MOST_S
    assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert {int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)} <= ALLOWED | {100, 401, 403, 405, 431}
