"""R2: clients that leave, stall or ask twice."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, chat, resident_kib, start_gateway, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Stack, Streamed, at_once, reset, scrape, send, way_flags

pytestmark = pytest.mark.reliability
GONE = "rigserve_client_disconnects_total"


def aborted(engine: FakeEngineProcess) -> float:
    """Seconds until the engine's connection is closed: at most 1."""
    begun = time.monotonic()
    until(lambda: engine.state()["aborted"] == 1, "the engine's connection is closed", 2)
    took_s = time.monotonic() - begun
    assert took_s < 1
    assert engine.state()["running"] == 0
    return took_s


def read_some(client: socket.socket, wanted: bytes) -> None:
    received = b""
    while wanted not in received:
        more = client.recv(65536)
        assert more, received
        received += more


@scenario(19)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_leaves_in_mid_stream(stack: Stack, seen: Seen, how: str) -> None:
    stack.solo.set(itl_s=0.05)
    client = send(stack.gateway, chat(stream=True, max_tokens=1000))
    read_some(client, b"w0")
    client.close() if how == "close" else reset(client)
    aborted(stack.solo)
    until(lambda: stack.rose(GONE, phase="streaming") == 1, "counted")
    assert stack.gateway.last_request()["status"] == 499
    chunks = stack.solo.state()["chunks"]
    time.sleep(0.2)
    assert stack.solo.state()["chunks"] == chunks, "nothing is made after it"
    seen(status="499 in the log", engine="aborted within 1 s, no token after it", metric="client_disconnects{phase=streaming} +1",
         seats=stack.seats_free())  # fmt: skip


@scenario(20)
@pytest.mark.parametrize("stream", [True, False])
def test_leaves_before_the_first_token(stack: Stack, seen: Seen, stream: bool) -> None:
    stack.solo.set(ttft_s=30)
    client = send(stack.gateway, chat(stream=stream))
    until(lambda: stack.solo.state()["running"] == 1, "the engine works")
    client.close()
    aborted(stack.solo)
    phase = "first_byte" if stream else "answer"
    until(lambda: stack.rose(GONE, phase=phase) == 1, "counted")
    seen(status="499 in the log", engine="aborted within 1 s", metric=f"client_disconnects{{phase={phase}}} +1", seats=stack.seats_free())


@scenario(21)
def test_leaves_while_queued(stack: Stack, seen: Seen) -> None:
    stack.solo.set(ttft_s=0.4)
    holders = [send(stack.gateway, chat(max_tokens=1)) for _ in range(4)]
    until(lambda: stack.solo.state()["running"] == 4, "four run")
    leaver, stayer = send(stack.gateway, chat(max_tokens=2)), send(stack.gateway, chat(max_tokens=3))
    until(lambda: stack.gateway.seats() == 6, "two wait")
    leaver.close()
    until(lambda: stack.gateway.seats() <= 5, "its place is gone")
    for client in (*holders, stayer):
        assert b"200 OK" in client.recv(4096)
        client.close()
    assert sorted(seen["body"]["max_tokens"] for seen in stack.solo.state()["seen"]) == [1, 1, 1, 1, 3]
    assert stack.rose(GONE, phase="queued") == 1
    seen(status="the others 200", engine="never asked for the one that left", metric="client_disconnects{phase=queued} +1",
         seats=stack.seats_free())  # fmt: skip


@scenario(22)
def test_leaves_after_the_end(stack: Stack, seen: Seen) -> None:
    client = send(stack.gateway, chat(stream=True, max_tokens=2))
    read_some(client, b"0\r\n\r\n")
    client.close()
    assert stack.gateway.last_request()["ending"] == "served"
    assert stack.rose(GONE) == stack.solo.state()["aborted"] == 0
    seen(status=200, metric="client_disconnects +0, requests{ending=served} +1", seats=stack.seats_free())


@scenario(23)
def test_one_of_two_streams(stack: Stack, seen: Seen) -> None:
    stack.solo.set(itl_s=0.02)
    leaver = send(stack.gateway, chat(stream=True, max_tokens=500))
    read_some(leaver, b"w0")
    done: list[Streamed] = []
    stayer = threading.Thread(target=lambda: done.append(Streamed(stack.gateway, chat(max_tokens=30))))
    stayer.start()
    leaver.close()
    stayer.join(10)
    assert done[0].done
    assert len(done[0].words) == 30
    until(lambda: stack.rose(GONE) == 1, "counted")
    seen(status=200, other="whole, 30 of 30 tokens", metric="client_disconnects +1", seats=stack.seats_free())


@scenario(24)
def test_never_reads(stack: Stack, seen: Seen) -> None:
    """The engine would make 64 MB at once. The client stays; the write deadline (1.5 s here) ends it."""
    stack.solo.fault("fat_chunks")
    before = resident_kib(stack.gateway)
    with send(stack.gateway, chat(stream=True, max_tokens=1000), receive_bytes=16384):
        until(lambda: stack.solo.state()["running"] == 1, "the engine sends")
        until(lambda: stack.gateway.seats() == 0, "cut by the write deadline", 5)
        assert resident_kib(stack.gateway) - before < 20_000
    until(lambda: stack.solo.state()["running"] == 0, "the engine's connection is closed")
    assert stack.rose("rigserve_backend_failures_total") == 0, "not the engine's fault"
    assert stack.rose("rigserve_requests_total", code="timeout") == 1
    seen(status="cut at the write deadline", memory="less than 20 MB more", metric="requests{code=timeout} +1, backend_failures +0",
         seats=stack.seats_free())  # fmt: skip


@scenario(25)
def test_reads_a_byte_now_and_then(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("fat_chunks")
    stack.one.set(itl_s=0.02)
    stack.two.set(itl_s=0.02)
    client = send(stack.gateway, chat(stream=True, max_tokens=1000), receive_bytes=16384)
    stop = threading.Event()

    def drip() -> None:
        try:
            while not stop.wait(0.2):
                client.recv(1)
        except OSError:
            pass

    reader = threading.Thread(target=drip)
    reader.start()
    try:
        begun = time.monotonic()
        other = Streamed(stack.gateway, chat("twin", max_tokens=30))
        took_s = time.monotonic() - begun
        until(lambda: stack.gateway.seats() == 0, "cut by the write deadline", 8)
    finally:
        stop.set()
        client.close()
        reader.join()
    assert other.done
    assert took_s < 3
    seen(status="cut at the write deadline", others="30 tokens at 20 ms in less than 3 s", seats=stack.seats_free())


@scenario(26)
def test_many_vanish_at_once(tmp_path, way: str, fake_engine, seen: Seen) -> None:  # type: ignore[no-untyped-def]
    count = 500
    engine = fake_engine("m", itl_s=0.5)
    gateway: GatewayProcess = start_gateway(tmp_path, f"--backend=m={engine.url}", "--limit-backend-slots=1024", *way_flags(way))
    try:
        gateway.wait_ready()
        files = len(os.listdir(f"/proc/{gateway.process.pid}/fd"))
        clients = [send(gateway, chat("m", stream=True, max_tokens=200)) for _ in range(count)]
        until(lambda: gateway.seats() == count, "all run", 20)
        for client in clients:
            reset(client)
        begun = time.monotonic()
        until(lambda: gateway.seats() == 0, "all seats back to 0", 10)
        took_s = time.monotonic() - begun
        until(lambda: engine.state()["running"] == 0, "the engine works for nobody", 10)
        until(lambda: len(os.listdir(f"/proc/{gateway.process.pid}/fd")) <= files + 8, "no socket is left", 5)
        assert scrape(gateway).sum(GONE) == count
        assert took_s < 5, "noisy; the aim is 2 s"
        assert gateway.post(CHAT, chat("m", max_tokens=1)).status_code == 200
    finally:
        gateway.stop()
    seen(status="499 in the log, 500 times", time=f"seats 0 after {took_s:.1f} s", sockets="none left",
         metric="client_disconnects +500", seats=0)  # fmt: skip


@scenario(27)
@pytest.mark.parametrize("stream", [True, False])
def test_half_closes(stack: Stack, seen: Seen, stream: bool) -> None:
    """A client that ends its side has left, for us as for uvicorn: proxies and browsers that go away look the same."""
    stack.solo.set(ttft_s=0.2)
    client = send(stack.gateway, chat(stream=stream, max_tokens=3))
    until(lambda: stack.solo.state()["running"] == 1, "the engine works")
    client.shutdown(socket.SHUT_WR)
    received = b""
    while more := client.recv(65536):
        received += more
    client.close()
    assert received == b"" or b"200 OK" in received
    until(lambda: stack.solo.state()["running"] == 0, "the engine is free")
    gone = stack.rose(GONE)
    assert gone == (received == b"")
    end = "answered" if received else "taken as having left: a clean cancel"
    seen(end=end, metric=f"client_disconnects +{gone:g}", seats=stack.seats_free())


@scenario(28)
@pytest.mark.parametrize("stream", [True, False])
def test_one_idempotency_key(stack: Stack, seen: Seen, stream: bool) -> None:
    stack.solo.set(ttft_s=0.3)
    headers = {"idempotency-key": f"key-{time.monotonic_ns()}"}
    body = chat(stream=stream, max_tokens=2)
    answers = at_once(4, lambda: stack.gateway.post(CHAT, body, headers=headers))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["error"]["code"] == "idempotency_conflict"
    assert refused.headers["retry-after"] == "1"
    stack.seats_free()
    again = stack.gateway.post(CHAT, body, headers=headers)
    assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
    assert len(stack.solo.state()["seen"]) == 1, "one execution"
    assert stack.rose("rigserve_requests_total", code="idempotency_conflict") == 4
    other = stack.gateway.post(CHAT, body, headers={"idempotency-key": headers["idempotency-key"] + "x"})
    assert other.status_code == 200
    seen(status="200, the others 409 idempotency_conflict", engine="asked once", metric="requests{code=idempotency_conflict} +4",
         seats=stack.seats_free())  # fmt: skip
