"""SIGTERM: no new requests, running ones may end, the rest gets an error event, exit code 0."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import pytest

from tests.gateway.rig import CHAT, GatewayProcess, chat, start_gateway, until

pytestmark = pytest.mark.slow


@pytest.fixture
def draining(fake_engine, tmp_path):
    engine = fake_engine("m", itl_s=0.02, context=10**6)
    gateway = start_gateway(tmp_path, "--backend", f"m={engine.url}", "--drain-grace-s", "0.8")
    gateway.wait_ready()
    yield gateway, engine
    gateway.stop()


def read(gateway: GatewayProcess, tokens: int, into: dict) -> None:
    with gateway.http.stream("POST", CHAT, json=chat("m", stream=True, max_tokens=tokens)) as answer:
        into["text"] = ""
        try:
            for piece in answer.iter_text():
                into["text"] += piece
            into["whole"] = True
        except httpx.RemoteProtocolError:
            into["whole"] = False


def test_streams_at_sigterm(draining):
    gateway, engine = draining
    short, long = {}, {}
    threads = [threading.Thread(target=read, args=(gateway, tokens, into)) for tokens, into in ((20, short), (100_000, long))]
    for thread in threads:
        thread.start()
    until(lambda: engine.state()["running"] == 2, "two streams run")
    gateway.process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    until(lambda: gateway.http.get("/readyz").json().get("status") == "draining", "not ready", 1)
    refused = gateway.post(CHAT, chat("m"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_available_worker")
    for thread in threads:
        thread.join(5)
    assert short["whole"]
    assert short["text"].endswith("data: [DONE]\n\n")
    assert not long["whole"]
    assert '"code":"no_available_worker"' in long["text"].strip().split("\n\n")[-1]
    assert gateway.process.wait(5) == 0
    assert 0.7 < time.monotonic() - start < 5
    until(lambda: engine.state()["running"] == 0, "the engine's work has ended")
