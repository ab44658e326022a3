"""R6: clients that abuse HTTP itself."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.rig import CHAT, MESSAGES, chat, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import WAYS, Stack, connect
from tests.reliability.wire import HOST, ask, read_answer, seconds_until_closed

pytestmark = pytest.mark.reliability
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
BODY = json.dumps(chat(max_tokens=1)).encode()
LENGTH = b"content-length: %d\r\n" % len(BODY)
REFUSED = "rigserve_edge_refusals_total"


@pytest.fixture(scope="module", params=WAYS)
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Short deadlines for heads and bodies, and room for 1,050 clients."""
    flags = ("--deadline-head-s=0.8", "--deadline-body-s=0.8", "--limit-connections=1050")
    stack = Stack(tmp_path_factory.mktemp("narrow"), request.param, *flags)
    yield stack
    stack.stop()


@scenario(63)
@pytest.mark.parametrize("raw", [
    POST + HOST + LENGTH + LENGTH + b"\r\n" + BODY,
    POST + HOST + LENGTH + b"content-length: 3\r\n\r\n" + BODY,
    POST + HOST + b"content-length: 5, 5\r\n\r\n" + BODY,
    POST + HOST + b"content-length: +5\r\n\r\n" + BODY,
    POST + HOST + b"content-length: 0x10\r\n\r\n" + BODY,
    POST + HOST + b"content-length: 99999999999999999999\r\n\r\n" + BODY,
    POST + HOST + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + HOST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + HOST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + HOST + b"transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    POST + HOST + b"transfer-encoding: chunked\r\n\r\nZ\r\n",
    POST + HOST + b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\nZ\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nZ\r\n",
    POST + HOST + b"transfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    (POST + HOST + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    POST + b"host: localhost\n" + LENGTH + b"\r\n" + BODY,
    POST + b"host : localhost\r\n" + LENGTH + b"\r\n" + BODY,
    POST + HOST + LENGTH + b"x: a\r\n b\r\n\r\n" + BODY,
    POST + HOST + LENGTH + b"x: a\x00b\r\n\r\n" + BODY,
    POST + LENGTH + b"\r\n" + BODY,
    POST + HOST + HOST + LENGTH + b"\r\n" + BODY,
])  # fmt: skip
def test_requests_that_two_readers_could_read_differently(stack: Stack, seen: Seen, raw: bytes) -> None:
    answer = ask(stack.gateway, raw)
    assert (answer.status, answer.error["code"]) == (400, "invalid_value")
    if answer.error["param"] != "host":
        assert answer.headers["connection"] == "close"
        assert stack.rose(REFUSED, code="invalid_value") == 1
    assert stack.solo.state()["seen"] == []
    stack.gateway.last_request()  # its line is written, and what went wrong before it
    assert "Traceback" not in stack.gateway.log.read_text()
    seen(status=400, body="invalid_value", metric="edge_refusals{code=invalid_value} +1", seats=stack.seats_free())


@scenario(64)
def test_headers_of_the_clients_making(stack: Stack, seen: Seen) -> None:
    evil = 'solo"\r\nx-evil: 1\r\n\r\n'
    for name in ("a\r\nx-evil: 1", evil):
        answer = stack.gateway.post(CHAT, chat(name))
        assert answer.status_code == 404
        assert "x-evil" not in answer.headers
        assert "\r" not in answer.json()["error"]["message"]
    dropped = stack.gateway.post(CHAT, chat(max_tokens=1, **{"a\r\nx-evil": 1}))
    assert (dropped.status_code, "x-evil" in dropped.headers) == (200, False)
    assert dropped.headers["x-rigserve-dropped-fields"] == "a??x-evil"
    for given in (b"a b", b"<script>", b"\xff", b"x" * 129):
        answer_ = ask(stack.gateway, POST + HOST + LENGTH + b"x-request-id: " + given + b"\r\n\r\n" + BODY)
        assert (answer_.status, len(answer_.headers["x-request-id"])) == (200, 32)
    line = stack.gateway.last_request()
    assert "x-evil" not in json.dumps(line)
    assert stack.rose("rigserve_requests_total", model="other", code="model_not_found") == 2, "a client's text is no label"
    seen(status="404 / 200", body="model_not_found, on one line", headers="none injected; a bad x-request-id is replaced by our own",
         metric="requests{model=other} +2", seats=stack.seats_free())


@scenario(65)
@pytest.mark.parametrize("raw", [
    POST + HOST + b"x-big: " + b"a" * 100_000 + b"\r\n\r\n", POST + HOST + b"x-big: " + b"a" * 40_000,
    POST + HOST + b"".join(b"x-%d: 1\r\n" % i for i in range(5000)) + b"\r\n", POST + HOST + b"a: b\r\n" * 100 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    POST + HOST + b"".join(b"x-%d: %b\r\n" % (i, b"y" * 4000) for i in range(9)) + b"\r\n",
    POST + HOST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 101 + b"\r\n",
])  # fmt: skip
def test_heads_that_are_too_large(stack: Stack, seen: Seen, raw: bytes) -> None:
    with connect(stack.gateway) as client:
        for start in range(0, len(raw), 8000):
            client.sendall(raw[start : start + 8000])
            time.sleep(0.002)
        answer = read_answer(client)
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
    assert answer.headers["x-should-retry"] == "false"
    assert stack.rose(REFUSED, code="headers_too_large") == 1
    seen(status=431, body="headers_too_large", metric="edge_refusals{code=headers_too_large} +1", seats=stack.seats_free())


@scenario(65)
@pytest.mark.parametrize("reads", [[40_000], [20_000, 20_000], [32_000, 1_000], [11_000, 11_000, 11_000]])
def test_a_head_without_an_end_in_any_reads(stack: Stack, seen: Seen, reads: list[int]) -> None:
    """However it is cut into reads: refused at once, not at the deadline for heads."""
    start = time.monotonic()
    with connect(stack.gateway) as client:
        client.sendall(POST + HOST + b"x-big: ")
        for size in reads:
            time.sleep(0.1)
            client.sendall(b"a" * size)
        assert read_answer(client).status == 431
    assert time.monotonic() - start < 4
    seen(without_an_end="431 at once, however it is cut into reads")


@scenario(65)
def test_large_heads_that_are_allowed(stack: Stack, seen: Seen) -> None:
    many = POST + HOST + LENGTH + b"".join(b"x-%d: 1\r\n" % i for i in range(98)) + b"\r\n" + BODY
    long = POST + HOST + LENGTH + b"x: " + b"y" * 30_000 + b"\r\n\r\n" + BODY
    assert [ask(stack.gateway, raw).status for raw in (many, long)] == [200, 200]
    seen(allowed="100 headers, 32 KiB: 200")


@scenario(66)
def test_a_hundred_pipelined_requests(stack: Stack, seen: Seen) -> None:
    bodies = [json.dumps({"model": "solo", "messages": MESSAGES, "max_tokens": 1 + i % 7}).encode() for i in range(100)]
    start_s = time.monotonic()
    with connect(stack.gateway) as client:
        heads = [POST + HOST + b"x-request-id: n%d\r\ncontent-length: %d\r\n\r\n" % (i, len(body)) for i, body in enumerate(bodies)]
        client.sendall(b"".join(head + body for head, body in zip(heads, bodies, strict=True)))
        reader = client.makefile("rb")
        ids = []
        for i in range(100):
            assert b" 200 " in reader.readline()
            headers = {}
            while line := reader.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            ids.append(headers["x-request-id"])
            answer = json.loads(reader.read(int(headers["content-length"])))
            assert answer["usage"]["completion_tokens"] == 1 + i % 7
    assert ids == [f"n{i}" for i in range(100)]
    until(lambda: stack.rose("rigserve_requests_total", ending="served", model="solo") == 100, "all are counted")
    assert len(stack.solo.state()["seen"]) == 100
    assert time.monotonic() - start_s < 10
    seen(status="100 times 200, in order", metric="requests{ending=served} +100", seats=stack.seats_free())


@scenario(67)
def test_slow_heads_and_bodies(narrow: Stack, seen: Seen) -> None:
    narrow.as_new()
    with ExitStack() as open_, ThreadPoolExecutor(4) as pool:
        silent = open_.enter_context(connect(narrow.gateway))
        begun = [open_.enter_context(connect(narrow.gateway)) for _ in range(200)]
        for client in begun:
            client.sendall(POST + b"x: ")
        ends = open_.enter_context(connect(narrow.gateway))
        dripping = open_.enter_context(connect(narrow.gateway))
        dripped = pool.submit(drip, dripping, POST + HOST)
        ended = pool.submit(drip, ends, b"\r\n" * 30)
        start = time.monotonic()
        assert narrow.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
        served_s = time.monotonic() - start
        assert served_s < 0.5, "200 slow clients do not hold up others"
        closed = [seconds_until_closed(client) for client in (silent, begun[0], begun[199])]
        assert time.monotonic() - start < 2
        assert dripped.result() < 2
        assert ended.result() < 2
        assert closed
    assert narrow.rose(REFUSED, code="head_timeout") == 203
    seen(heads="200 begun, a silent one, bytes and line ends that drip: all cut at the deadline; others are served meanwhile",
         metric="edge_refusals{code=head_timeout} +203", seats=narrow.seats_free())


def drip(client: socket.socket, head: bytes) -> float:
    """A head, byte by byte; how long it could go on."""
    start = time.monotonic()
    client.settimeout(0.1)
    for number in range(len(head)):
        try:
            client.sendall(head[number : number + 1])
            if client.recv(4096) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@scenario(67)
def test_a_body_that_drips(narrow: Stack, seen: Seen) -> None:
    """400 at the deadline; and a client that goes on dripping after it is cut."""
    narrow.as_new()
    with connect(narrow.gateway) as client:
        client.sendall(POST + HOST + b"content-length: 1000\r\n\r\n{")
        start = time.monotonic()
        answer = read_answer(client)
        assert 0.6 < time.monotonic() - start < 2
        assert (answer.status, "did not come within 0.8 s" in answer.error["message"]) == (400, True)
        try:
            while time.monotonic() - start < 9:
                client.sendall(b"x")
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() - start < 7, "5 s after the answer"
    assert narrow.rose(REFUSED, code="body_timeout") == 1
    with connect(narrow.gateway) as client:  # nobody reads the body of a GET
        client.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"content-length: 1000\r\n\r\n")
        assert read_answer(client).status == 200
        client.sendall(b"x" * 1000 + b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_answer(client).status == 200, "the body was skipped, the connection goes on"
    seen(bodies="400 at the deadline, cut 5 s later when the client goes on", counted="edge_refusals{code=body_timeout} +1")


@scenario(68)
def test_idle_connections_and_more_than_may_be(narrow: Stack, seen: Seen) -> None:
    narrow.as_new()
    with ExitStack() as open_:
        idle = []
        for _ in range(1000):
            client = open_.enter_context(connect(narrow.gateway))
            client.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            idle.append(client)
        for client in idle:
            assert read_answer(client).status == 200
        start = time.monotonic()
        assert narrow.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
        beside_s = time.monotonic() - start
        assert beside_s < 0.5
        statuses = []
        for _ in range(200):
            client = open_.enter_context(connect(narrow.gateway))
            client.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            statuses.append(client)
        got = [read_answer(client) for client in statuses]
        refused = [answer for answer in got if answer.status == 503]
        assert {answer.status for answer in got} == {200, 503}
        assert 150 <= len(refused) <= 152
        assert {answer.error["code"] for answer in refused} == {"too_many_connections"}
        assert refused[0].headers["retry-after"] == "1"
        assert narrow.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200, "who is connected is served"
    time.sleep(0.2)
    assert narrow.rose(REFUSED, code="too_many_connections") == len(refused)
    assert narrow.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
    seen(idle="1,000 idle: the next request is served", above="503 too_many_connections, Retry-After; who is connected is served",
         metric="edge_refusals{code=too_many_connections} +1 each", seats=narrow.seats_free())


@scenario(68)
def test_a_flood_of_connections(narrow: Stack, seen: Seen) -> None:
    """5,000 that say nothing: those beyond the limit and a few more are cut, nothing crashes, no descriptor stays."""
    narrow.as_new()
    with ExitStack() as open_:
        for _ in range(5000):
            open_.enter_context(connect(narrow.gateway))
        time.sleep(3)
    time.sleep(0.3)
    assert narrow.gateway.process.poll() is None
    assert narrow.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
    # Those that came in time for one of the 1,050 places were cut for saying nothing: how many depends on how fast 5,000 come.
    refused, silent = (narrow.rose(REFUSED, code=code) for code in ("too_many_connections", "head_timeout"))
    assert refused > 0
    assert refused + silent == 5000
    assert open_files(narrow) < 100
    seen(flood="5,000: cut beyond the limit, served afterwards, no descriptor stays")


def open_files(stack: Stack) -> int:
    return len(list(Path(f"/proc/{stack.gateway.process.pid}/fd").iterdir()))


@scenario(69)
def test_expect_100_continue(stack: Stack, seen: Seen) -> None:
    with connect(stack.gateway) as client:
        client.sendall(POST + HOST + LENGTH + b"expect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert read_answer(client).status == 200
    with connect(stack.gateway) as client:  # a refusal needs no body: 413 in the place of 100
        client.sendall(POST + HOST + b"content-length: 50000000\r\nexpect: 100-continue\r\n\r\n")
        assert read_answer(client).status == 413
    seen(expect="100, then 200; 413 instead of 100")


@scenario(69)
def test_another_protocol_is_not_taken_up(stack: Stack, seen: Seen) -> None:
    """Java's client asks for h2c with every request; h2 with prior knowledge is no HTTP/1."""
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    assert ask(stack.gateway, POST + HOST + upgrade + LENGTH + b"\r\n" + BODY).status == 200
    assert ask(stack.gateway, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status == 400
    with connect(stack.gateway) as client:  # in pieces: the parser takes the body for h2, so nothing after it may be a request
        client.sendall(POST + HOST + upgrade + LENGTH)
        time.sleep(0.05)
        client.sendall(b"\r\n" + b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_answer(client).status == 400
        assert client.recv(100) == b""
    seen(upgrade="h2c is ignored, the request is served")


@scenario(69)
@pytest.mark.parametrize(("line", "status"), [
    (b"HEAD /v1/models", 200), (b"HEAD /metrics", 200), (b"HEAD /v1/chat/completions", 405), (b"OPTIONS /v1/models", 405),
    (b"OPTIONS *", 404), (b"TRACE /v1/models", 405), (b"CONNECT localhost:80", 400), (b"BREW /v1/models", 400), (b"get /v1/models", 400),
    (b"GET //v1/models", 404), (b"GET /v1//models", 404), (b"GET /./v1/models", 404), (b"GET /x/../v1/models", 404),
    (b"GET /v1/models/", 404),
    (b"GET /v1/%6dodels", 200), (b"GET /%2fv1/models", 404), (b"GET /v1%2fmodels", 200), (b"GET /v1/models%00", 404),
    (b"GET /v1/models;x=y", 404),
    (b"GET /v1/models#x", 200), (b"GET http://localhost/v1/models", 200), (b"GET http://localhost", 400), (b"GET v1/models", 400),
    (b"GET /V1/MODELS", 404), (b"GET /v1/models?x=%zz", 200), (b"GET /\xff", 400), (b"GET /v1/models\\", 404),
    (b"GET /v1/models/..%2f..%2fmetrics", 404),
])  # fmt: skip
def test_methods_and_paths(stack: Stack, seen: Seen, line: bytes, status: int) -> None:
    answer = ask(stack.gateway, line + b" HTTP/1.1\r\n" + HOST + b"\r\n", bodiless=line.startswith(b"HEAD"))
    assert answer.status == status
    if line.startswith(b"HEAD"):
        assert int(answer.headers["content-length"]) > 0
    elif status >= 400:
        assert answer.error["code"] in ("invalid_value", "route_not_found", "method_not_allowed", "model_not_found")
    if status == 405:
        assert answer.headers["allow"] in ("POST", "GET, HEAD")
    seen(paths="one spelling of each route; HEAD as GET; 405 with Allow; unknown methods 400", seats=stack.seats_free())
