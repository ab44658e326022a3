"""Engines that break: what the client sees, how often the engine was asked, and that every seat is free again (conftest checks that)."""

from __future__ import annotations

import concurrent.futures
import json
import signal
import time

import httpx
import pytest

from tests.gateway.conftest import Loose
from tests.gateway.rig import CHAT, chat, start_gateway, until

pytestmark = pytest.mark.slow


def at_once(n, call):
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(n)]]


def stream(gateway, model="solo", **more):
    """Status, whole events and whether the body ended in order."""
    events = []
    with gateway.http.stream("POST", CHAT, json=chat(model, stream=True, **{"max_tokens": 8, **more})) as answer:
        if answer.status_code != 200:
            answer.read()
            return answer, events, True
        try:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(line[6:])
            whole = True
        except httpx.RemoteProtocolError:
            whole = False
    return answer, events, whole


def words(events):
    said = [json.loads(e)["choices"][0]["delta"].get("content") for e in events if e.startswith('{"id"')]
    return [word for word in said if word]


@pytest.mark.parametrize(("fault", "told"), [
    ("die_mid_stream", "broke off"), ("close_mid_stream", "broke off"), ("stall", "no token for 0.5 s"),
    ("eof_without_done", "ended its answer before it was whole"), ("error_event", "EngineCore died"), ("bad_chunk", "not JSON"),
    ("half_utf8", "not JSON"),
])
def test_a_stream_that_breaks_after_its_first_token(loose: Loose, fault, told):
    loose.solo.fault(fault, after_tokens=4)
    start = time.monotonic()
    answer, events, whole = stream(loose.gateway)
    assert answer.status_code == 200
    assert words(events) == ["w0", " w1", " w2", " w3"], "what had come is passed on"
    error = json.loads(events[-1])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert told in error["message"]
    assert error["code"] == ("timeout" if fault == "stall" else "backend_failed")
    assert not whole, "never a clean end"
    assert time.monotonic() - start < 2
    assert len(loose.solo.state()["seen"]) == 1, "never replayed"
    line = loose.gateway.last_request()
    assert (line["ending"], line["code"]) == ("failed", error["code"])


@pytest.mark.parametrize("fault", ["done_only", "role_only", "die_before_first", "error_500", "error_503", "exit_stream"])
def test_a_stream_that_breaks_before_its_first_token(loose: Loose, fault):
    """No half answer: a status, since nothing was sent yet."""
    loose.solo.fault("die_mid_stream" if fault == "exit_stream" else fault, after_tokens=0)
    answer, _, _ = stream(loose.gateway)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == ((503, "no_available_worker") if fault == "error_503" else (502, "backend_failed"))


TAKEN_OVER = ["die_before_first", "error_500", "error_503", "error_429"]


@pytest.mark.parametrize(("fault", "streamed"), [
    *((fault, False) for fault in TAKEN_OVER), *((fault, True) for fault in (*TAKEN_OVER, "done_only", "role_only", "hang")),
])
def test_another_backend_takes_over_before_the_first_token(loose: Loose, fault, streamed):
    """Four at once and three slots each: at least one goes to the broken engine first."""
    loose.two.set(ttft_s=0.05)
    loose.one.fault(fault)
    answers = at_once(4, lambda: loose.gateway.post(CHAT, chat("twin", stream=streamed, max_tokens=3)))
    assert [a.status_code for a in answers] == [200] * 4
    assert {a.headers["x-rigserve-attempts"] for a in answers} >= {"2"}
    assert {a.headers["x-rigserve-backend"] for a in answers} == {"backend-2"}
    if streamed:
        assert all(a.text.endswith("data: [DONE]\n\n") for a in answers)


def test_only_one_retry(loose: Loose):
    for engine in (loose.one, loose.two):
        engine.fault("error_500")
    assert loose.gateway.error(CHAT, chat("twin"), 502)["code"] == "backend_failed"
    assert [len(engine.state()["seen"]) for engine in (loose.one, loose.two)] == [1, 1]


def test_400_is_passed_on_and_not_retried(loose: Loose):
    for engine in (loose.one, loose.two):
        engine.fault("error_400")
    error = loose.gateway.error(CHAT, chat("twin"), 400)
    assert (error["code"], error["message"]) == ("invalid_value", "fake failure 400")
    assert sum(len(engine.state()["seen"]) for engine in (loose.one, loose.two)) == 1
    assert {b["state"] for b in loose.gateway.backends().values()} == {"ready"}


def test_hang_without_another_backend_is_504(loose: Loose):
    loose.solo.fault("hang")
    error = loose.gateway.error(CHAT, chat(stream=True), 504)
    assert error["code"] == "timeout"
    assert "no first token within 0.5 s" in error["message"]
    until(lambda: loose.solo.state()["aborted"] == 1, "the engine's connection is closed")


def test_chunks_that_are_cut_anywhere_are_whole_events_again(loose: Loose):
    loose.solo.fault("split_chunks")
    _, events, whole = stream(loose.gateway)
    assert whole
    assert words(events) == ["w0", *(f" w{i}" for i in range(1, 8))]
    assert events[-1] == "[DONE]"


def test_a_very_large_chunk_passes(loose: Loose):
    loose.solo.fault("big_chunk", after_tokens=2)
    _, events, whole = stream(loose.gateway)
    assert whole
    assert max(len(event) for event in events) > 10_000_000


def test_whole_answer_that_is_cut(loose: Loose):
    loose.solo.fault("die_mid_stream")
    assert loose.gateway.error(CHAT, chat(), 502)["code"] == "backend_failed"


def test_a_slow_stream_that_moves_is_left_alone(loose: Loose):
    loose.solo.set(itl_s=0.3)
    _, events, whole = stream(loose.gateway, max_tokens=2)
    assert whole
    assert len(words(events)) == 2


def test_a_slow_health_route_ejects_nobody(loose: Loose):
    loose.solo.fault("slow_health", delay_s=0.6)
    time.sleep(0.5)
    assert loose.gateway.backends()["backend-0"]["state"] == "ready"
    assert loose.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200


def test_health_503_ejects_until_it_is_well_again(loose: Loose):
    loose.solo.fault("health_503")
    until(lambda: loose.gateway.backends()["backend-0"]["state"] == "loading", "loading")
    assert loose.gateway.error(CHAT, chat(), 503)["code"] == "backend_starting"
    loose.solo.reset()
    loose.gateway.wait_ready()


def test_full_queue(loose: Loose):
    """3 slots and a queue of 2: the sixth is refused at once, with Retry-After."""
    loose.solo.set(ttft_s=0.2, itl_s=0.01)
    answers = at_once(8, lambda: loose.gateway.post(CHAT, chat(max_tokens=10)))
    assert sorted(a.status_code for a in answers) == [200] * 5 + [429] * 3
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert max(float(a.headers["x-rigserve-queue-ms"]) for a in answers if a.status_code == 200) > 100


def test_queue_deadline(loose: Loose):
    loose.solo.set(itl_s=0.03)
    answers = at_once(4, lambda: loose.gateway.post(CHAT, chat(max_tokens=30, stream=True)))
    assert sorted(a.status_code for a in answers) == [200, 200, 200, 504]
    assert next(a for a in answers if a.status_code == 504).json()["error"]["code"] == "timeout"


def test_a_backend_comes_late_dies_and_comes_back(fake_engine, tmp_path):
    """Without the gateway being touched."""
    spare = fake_engine("m")
    spare.stop()
    gateway = start_gateway(tmp_path, "--backend", f"m=http://127.0.0.1:{spare.port}")
    try:
        until(lambda: gateway.backends()["backend-0"]["state"] == "unreachable", "unreachable")
        assert gateway.error(CHAT, chat("m"), 503)["code"] == "no_available_worker"
        assert [gateway.http.get(path).status_code for path in ("/readyz", "/healthz")] == [503, 200]
        engine = fake_engine("m", port=spare.port, itl_s=0.05)
        gateway.wait_ready()
        assert gateway.http.get("/readyz").status_code == 200
        with gateway.http.stream("POST", CHAT, json=chat("m", stream=True, max_tokens=100)) as answer:
            lines = answer.iter_lines()
            next(lines)
            engine.kill()
            start = time.monotonic()
            rest = []
            with pytest.raises(httpx.RemoteProtocolError):
                rest.extend(lines)
        assert "backend_failed" in [line for line in rest if line][-1]
        assert gateway.post(CHAT, chat("m")).status_code in (502, 503)
        assert time.monotonic() - start < 1
        assert gateway.backends()["backend-0"]["state"] == "unreachable"
        fake_engine("m", port=spare.port)
        gateway.wait_ready()
        assert gateway.post(CHAT, chat("m", max_tokens=1)).status_code == 200
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(3) == 0, "nothing runs: it ends at once"
    finally:
        gateway.stop()
