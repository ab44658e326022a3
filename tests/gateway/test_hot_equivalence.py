"""Two ways through the gateway, one behaviour: the same requests by the short way and by the application (--plain-path), and every header,
body, metric and seat compared."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import process
from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, chat, start_gateway, until

pytestmark = pytest.mark.slow

SHORT = ("--deadline-first-byte-s", "0.3", "--deadline-inter-token-s", "0.3", "--deadline-total-s", "0.9", "--limit-backend-slots", "3",
         "--limit-body-bytes", "200000")
COMPLETIONS = "/v1/completions"
PROMPT = {"model": "solo", "prompt": "one two three", "max_tokens": 4}
# From run to run: ids, times, and which of two deadlines of a whole answer ends first (one grows with the learned speed).
VARIES = re.compile(r'(?<="id":)\s*"[^"]*"|(?<="created":)\s*\d+|The (engine gave no answer within|answer took longer than) [\d.]+')


class Pair:
    """Two gateways, of the short way and of the application, over the same engines: `solo` once, `twin` twice."""

    def __init__(self, folder: Path) -> None:
        self.solo, self.one, self.two = process.start("solo"), process.start("twin"), process.start("twin")
        flags = [f"--backend={model}={engine.url}" for model, engine in (("solo", self.solo), ("twin", self.one), ("twin", self.two))]
        self.hot = start_gateway(folder, *flags, *SHORT)
        self.plain = start_gateway(folder, *flags, *SHORT, "--plain-path")

    @property
    def gateways(self) -> tuple[GatewayProcess, GatewayProcess]:
        return self.hot, self.plain

    @property
    def engines(self) -> tuple[FakeEngineProcess, ...]:
        return self.solo, self.one, self.two


@pytest.fixture(scope="module")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    for gateway in pair.gateways:
        gateway.wait_ready()
    yield pair
    for gateway in pair.gateways:
        gateway.stop()
    for engine in pair.engines:
        engine.stop()


@pytest.fixture
def pair(_pair: Pair) -> Iterator[Pair]:
    for engine in _pair.engines:
        engine.reset()
    yield _pair
    for engine in _pair.engines:
        engine.reset()
    for gateway in _pair.gateways:
        until(lambda gateway=gateway: gateway.seats() == 0, "all seats back to 0")
        gateway.wait_ready()


def seen(gateway: GatewayProcess, path: str, body: Any, **more: Any) -> dict[str, Any]:
    """What a client can see of one request: status, headers, body, and whether the body ended in order."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts, whole = [], True
    with gateway.http.stream("POST", path, content=content, **more) as answer:
        try:
            parts.extend(answer.iter_raw())
        except httpx.RemoteProtocolError:
            whole = False
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id", "x-rigserve-queue-ms")}
    text = VARIES.sub("0", b"".join(parts).decode())
    if "content-length" in headers:
        assert int(headers["content-length"]) == len(b"".join(parts))
        headers["content-length"] = "as long as the body"
    return {"status": answer.status_code, "headers": headers, "body": text, "whole": whole}


def counted(gateway: GatewayProcess) -> dict[str, float]:
    """Every sample of /metrics that counts requests: no times, no sums of times."""
    found = {}
    for line in gateway.http.get("/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if "_created" in name:
            continue
        if line.startswith(("rigserve_requests_total", "rigserve_retries_total", "rigserve_backend_failures_total", "gen_ai_client_token",
                            "rigserve_client_disconnects_total")) or name.split("{")[0].endswith("_seconds_count"):  # fmt: skip
            found[name] = float(value)
    return found


def grown(gateway: GatewayProcess, before: dict[str, float]) -> dict[str, float]:
    after = counted(gateway)
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


MATRIX: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "chat": (CHAT, chat(max_tokens=4), {}),
    "chat stream": (CHAT, chat(max_tokens=4, stream=True), {}),
    "stream with usage": (CHAT, chat(max_tokens=4, stream=True, stream_options={"include_usage": True}), {}),
    "usage refused": (CHAT, chat(max_tokens=4, stream=True, stream_options={"include_usage": False}), {}),
    "completion": (COMPLETIONS, PROMPT, {}),
    "completion stream": (COMPLETIONS, {**PROMPT, "stream": True}, {}),
    "several answers": (CHAT, chat(max_tokens=4, n=2), {}),
    "alias in capitals": (CHAT, chat("SOLO", max_tokens=4), {}),
    "dropped fields": (CHAT, chat(max_tokens=4, verbosity="low", stream=True), {}),
    "request id": (CHAT, chat(max_tokens=4), {"headers": {"x-request-id": "mine-1"}}),
    "bad request id": (CHAT, chat(max_tokens=4), {"headers": {"x-request-id": "no good id"}}),
    "unicode": (CHAT, {"model": "solo", "messages": [{"role": "user", "content": "größe 漢字 \U0001f600"}], "max_tokens": 4}, {}),
    "no such model": (CHAT, chat("nobody"), {}),
    "no model": (CHAT, {"messages": []}, {}),
    "bad field": (CHAT, chat(temperature=9), {}),
    "refused field": (CHAT, chat(chat_template="x"), {}),
    "not JSON": (CHAT, b'{"model": "solo", ', {}),
    "empty": (CHAT, b"", {}),
    "too large": (CHAT, b'{"model":"' + b"x" * 200_001 + b'"}', {}),
    "compressed": (CHAT, chat(), {"headers": {"content-encoding": "gzip"}}),
    "too long for the engine": (CHAT, chat(max_tokens=5000), {}),
    "another host": (CHAT, chat(), {"headers": {"host": "evil.example"}}),
    "another origin": (CHAT, chat(), {"headers": {"origin": "http://evil.example"}}),
    "own origin": (CHAT, chat(max_tokens=4), {"headers": {"origin": "http://localhost:3000"}}),
    "expect": (CHAT, chat(max_tokens=4), {"headers": {"expect": "100-continue"}}),
    "a query": (CHAT + "?x=1", chat(max_tokens=4), {}),
    "connection: close": (CHAT, chat(max_tokens=4), {"headers": {"connection": "close"}}),
    "stream and close": (CHAT, chat(max_tokens=4, stream=True), {"headers": {"connection": "close"}}),
}


@pytest.mark.parametrize("name", MATRIX)
def test_the_same_answer_on_both_ways(pair: Pair, name: str) -> None:
    path, body, more = MATRIX[name]
    (hot, hot_grown), (plain, plain_grown) = ask_both(pair, path, body, more)
    assert hot == plain
    assert hot_grown == plain_grown


OF_STREAMS = ["stall", "eof_without_done", "done_only", "role_only", "error_event", "bad_chunk", "half_utf8", "split_chunks", "big_chunk",
              "fat_chunks"]
OF_BOTH = ["die_mid_stream", "die_before_first", "hang", "error_400", "error_429", "error_500", "error_503", "out_of_memory"]


@pytest.mark.parametrize(("fault", "stream"), [*((fault, True) for fault in OF_STREAMS + OF_BOTH), *((fault, False) for fault in OF_BOTH)])
def test_the_same_end_of_a_fault(pair: Pair, fault: str, stream: bool) -> None:
    asked = chat(max_tokens=6, stream=stream) if stream else chat(max_tokens=6)
    (hot, hot_grown), (plain, plain_grown) = ask_both(pair, CHAT, asked, {}, lambda: pair.solo.fault(fault, after_tokens=2))
    assert hot == plain
    assert hot_grown == plain_grown


@pytest.mark.parametrize(("fault", "stream"), [("die_before_first", False), ("die_before_first", True), ("error_500", False),
                                               ("error_500", True), ("error_503", True), ("done_only", True)])
def test_the_same_second_attempt(pair: Pair, fault: str, stream: bool) -> None:
    met = [second_attempt(pair, gateway, fault, stream) for gateway in pair.gateways]
    assert met[0] == met[1]


def second_attempt(pair: Pair, gateway: GatewayProcess, fault: str, stream: bool) -> dict[str, Any]:
    """What a client sees of a request that failed on one of the twins and was served by the other."""
    pair.one.fault(fault)
    try:
        for _ in range(20):
            before = counted(gateway)
            answer = seen(gateway, CHAT, chat("twin", max_tokens=3, stream=stream))
            assert answer["status"] == 200
            assert answer["whole"]
            if answer["headers"]["x-rigserve-attempts"] == "2":
                time.sleep(0.02)
                return answer | {"grown": grown(gateway, before)}
    finally:
        pair.one.reset()
    raise AssertionError("the broken twin was never asked first")


def ask_both(pair: Pair, path: str, body: Any, more: dict[str, Any], prepare: Any = None) -> list[tuple[dict[str, Any], dict[str, float]]]:
    met = []
    for gateway in pair.gateways:
        gateway.wait_ready()
        if prepare is not None:
            prepare()
        before = counted(gateway)
        answer = seen(gateway, path, body, **more)
        until(lambda gateway=gateway: gateway.seats() == 0, "all seats back to 0")
        time.sleep(0.02)  # the application counts a request a turn of the loop after its seat is free
        met.append((answer, grown(gateway, before)))
        for engine in pair.engines:
            engine.reset()
    return met


# --- the client leaves -----------------------------------------------------------------------------------------------------


def leave(gateway: GatewayProcess, body: dict[str, Any], after: Any) -> None:
    """Asks on a socket of its own and resets it once `after()` is true."""
    content = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(content), content))
        until(lambda: after(client), "the phase in which it leaves")


PHASES: dict[str, tuple[dict[str, Any], bool, float]] = {
    "before the first token": ({"ttft_s": 0.25}, True, 0.0),
    "in the stream": ({"itl_s": 0.1}, True, 0.0),
    "before the whole answer": ({"ttft_s": 0.8}, False, 0.0),
}


@pytest.mark.parametrize("way", ["hot", "plain"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_leaves_ends_the_engines_work(pair: Pair, way: str, phase: str) -> None:
    settings, stream, _ = PHASES[phase]
    gateway = pair.hot if way == "hot" else pair.plain
    pair.solo.set(**settings)
    before = pair.solo.state()["aborted"]

    def there(client: socket.socket) -> bool:
        return bool(client.recv(1)) if phase == "in the stream" else pair.solo.state()["running"] == 1

    leave(gateway, chat(max_tokens=50, stream=stream), there)
    left = time.monotonic()
    until(lambda: pair.solo.state()["aborted"] == before + 1, "the engine's connection ended", 1.0)
    assert time.monotonic() - left < 1.0
    until(lambda: gateway.seats() == 0, "the seat is free", 1.0)
    assert gateway.last_request()["ending"] == "client_gone"
