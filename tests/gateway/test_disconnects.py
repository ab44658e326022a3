"""A client that leaves: the engine's work ends within a second, in every phase, and the seat is free again (conftest checks that)."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from tests.fakes.process import FakeEngineProcess
from tests.gateway.conftest import Loose
from tests.gateway.rig import CHAT, GatewayProcess, Rig, chat, resident_kib, until

pytestmark = pytest.mark.slow


def connect(gateway: GatewayProcess, receive_bytes: int | None = None) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(5)
    client.connect((host, int(port)))
    return client


def send(gateway: GatewayProcess, body: dict, path: str = CHAT, receive_bytes: int | None = None) -> socket.socket:
    raw = json.dumps(body).encode()
    client = connect(gateway, receive_bytes)
    client.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw)
    return client


def aborted(engine: FakeEngineProcess, since: float) -> None:
    until(lambda: engine.state()["aborted"] == 1, "the engine's connection is closed", 2)
    assert time.monotonic() - since < 1
    assert engine.state()["running"] == 0


@pytest.mark.parametrize("streamed", [True, False])
def test_before_the_first_byte(loose: Loose, streamed):
    loose.solo.set(ttft_s=30)
    client = send(loose.gateway, chat(stream=streamed))
    until(lambda: loose.solo.state()["running"] == 1, "the engine works")
    client.close()
    aborted(loose.solo, time.monotonic())
    until(lambda: loose.gateway.last_request()["ending"] == "client_gone", "logged")
    line = loose.gateway.last_request()
    assert (line["status"], line["phase"]) == (499, "first_byte" if streamed else "answer")


def test_mid_stream(loose: Loose):
    loose.solo.set(itl_s=0.05)
    client = send(loose.gateway, chat(stream=True, max_tokens=1000))
    assert b"w0" in client.recv(4096) + client.recv(4096)
    client.close()
    aborted(loose.solo, time.monotonic())


def test_with_a_reset(loose: Loose):
    loose.solo.set(itl_s=0.05)
    client = send(loose.gateway, chat(stream=True, max_tokens=1000))
    client.recv(4096)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    aborted(loose.solo, time.monotonic())


def test_while_queued(loose: Loose):
    """Three hold the slots, two wait; the first that waits leaves, and only the other one is served after them."""
    loose.solo.set(ttft_s=0.25)
    holders = [send(loose.gateway, chat(max_tokens=1)) for _ in range(3)]
    until(lambda: loose.solo.state()["running"] == 3, "three run")
    leaver, stayer = send(loose.gateway, chat(max_tokens=2)), send(loose.gateway, chat(max_tokens=3))
    until(lambda: loose.gateway.seats() == 5, "two wait")
    leaver.close()
    until(lambda: loose.gateway.seats() == 4, "one waits")
    for client in (*holders, stayer):
        assert b"200 OK" in client.recv(4096)
        client.close()
    assert [seen["body"]["max_tokens"] for seen in loose.solo.state()["seen"]] == [1, 1, 1, 3]


def test_while_the_prompt_is_counted(rig: Rig):
    engine = rig.engines["llm-vllm"]
    engine.fault("slow_tokenize", delay_s=30)
    client = send(rig.gateway, {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "word " * 300}]})
    time.sleep(0.2)
    client.close()
    until(lambda: rig.gateway.last_request().get("ending") == "client_gone", "logged")
    assert rig.gateway.last_request()["phase"] == "checking"
    assert engine.state()["seen"] == []


def test_image_job(rig: Rig):
    rig.engines["digits"].set(step_s=1)
    client = send(rig.gateway, {"model": "digits-sd", "prompt": "x", "steps": 20}, "/v1/images/generations")
    until(lambda: rig.engines["digits"].state()["running"] == 1, "the engine works")
    client.close()
    aborted(rig.engines["digits"], time.monotonic())


def test_one_of_two_streams(loose: Loose):
    loose.solo.set(itl_s=0.02)
    leaver = send(loose.gateway, chat(stream=True, max_tokens=500))
    leaver.recv(4096)
    done = []
    stayer = threading.Thread(target=lambda: done.append(loose.gateway.post(CHAT, chat(stream=True, max_tokens=30)).text))
    stayer.start()
    leaver.close()
    stayer.join(5)
    assert done[0].endswith("data: [DONE]\n\n")
    assert done[0].count('"content":"') == 31


def test_after_the_end_is_nothing(loose: Loose):
    client = send(loose.gateway, chat(stream=True, max_tokens=2))
    received = b""
    while b"0\r\n\r\n" not in received:
        received += client.recv(65536)
    client.close()
    assert loose.gateway.last_request()["ending"] == "served"
    assert loose.solo.state()["aborted"] == 0


def test_the_connection_to_the_engine_is_used_again(loose: Loose):
    for _ in range(5):
        for streamed in (True, False):
            assert loose.gateway.post(CHAT, chat(stream=streamed, max_tokens=2)).status_code == 200
            until(lambda: loose.gateway.seats() == 0, "the connection is given back")
    # Not exactly 1: on a busy machine the end of a stream can come later than the gateway waits for it, and then the connection is let go.
    assert loose.solo.state()["model_connections"] <= 3


def test_body_that_never_comes(loose: Loose):
    client = connect(loose.gateway)
    client.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{{".encode())
    time.sleep(0.1)
    client.close()
    assert loose.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200


def test_a_client_that_does_not_read_holds_the_engine_back(loose: Loose):
    """The engine would make 64 MB at once; the gateway stops reading from it instead of keeping them."""
    loose.solo.fault("fat_chunks")
    before = resident_kib(loose.gateway)
    with send(loose.gateway, chat(stream=True, max_tokens=1000), receive_bytes=16384):
        until(lambda: loose.solo.state()["running"] == 1, "the engine sends")
        time.sleep(0.5)
        assert loose.gateway.seats() == 1, "still being sent"
        assert resident_kib(loose.gateway) - before < 10_000
    until(lambda: loose.gateway.seats() == 0, "seat free", 2)
