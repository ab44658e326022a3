"""R1: engines that break."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.fakes import process
from tests.gateway.rig import CHAT, GatewayProcess, chat, resident_kib, start_gateway, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import FLAGS, Stack, Streamed, at_once, scrape, way_flags

pytestmark = pytest.mark.reliability
FAILURES = "rigserve_backend_failures_total"


class Doomed:
    """A gateway over engines of its own, to be killed."""

    def __init__(self, folder: Path, way: str, engines: int) -> None:
        self.engines = [process.start("m") for _ in range(engines)]
        self.ports = [engine.port for engine in self.engines]
        self.gateway: GatewayProcess = start_gateway(folder, *(f"--backend=m={e.url}" for e in self.engines), *FLAGS, *way_flags(way))
        self.gateway.wait_ready()

    def sum(self, name: str, **labels: str) -> float:
        return scrape(self.gateway).sum(name, **labels)

    def stop(self) -> None:
        until(lambda: self.gateway.seats() == 0, "all seats back to 0")
        self.gateway.stop()
        for engine in self.engines:
            engine.stop()


@pytest.fixture
def alone(tmp_path: Path, way: str) -> Iterator[Doomed]:
    doomed = Doomed(tmp_path, way, 1)
    yield doomed
    doomed.stop()


@pytest.fixture
def pair(tmp_path: Path, way: str) -> Iterator[Doomed]:
    doomed = Doomed(tmp_path, way, 2)
    yield doomed
    doomed.stop()


@scenario(1)
def test_killed_in_mid_stream(alone: Doomed, seen: Seen) -> None:
    alone.engines[0].set(itl_s=0.05)
    with alone.gateway.sdk() as sdk:
        chunks = iter(sdk.chat.completions.create(**chat("m"), max_tokens=200, stream=True))
        for _ in range(5):
            next(chunks)
        alone.engines[0].kill()
        killed_s = time.monotonic()
        with pytest.raises(openai.APIError, match="broke off"):
            list(chunks)
    took_s = time.monotonic() - killed_s
    assert took_s < 2
    until(lambda: alone.gateway.backends()["backend-0"]["state"] == "unreachable", "ejected")
    assert alone.sum(FAILURES, kind="cut") == 1
    assert alone.sum("rigserve_backend_ready") == 0
    assert alone.gateway.last_request()["code"] == "backend_failed"
    seen(status=200, end="error event backend_failed within 2 s; the SDK raises APIError", state="unreachable",
         metric="backend_failures{kind=cut} +1, backend_ready 0", seats=alone.gateway.seats())  # fmt: skip


@scenario(2)
@pytest.mark.parametrize("stream", [True, False])
def test_killed_before_the_first_token_with_a_twin(pair: Doomed, seen: Seen, stream: bool) -> None:
    for engine in pair.engines:
        engine.set(ttft_s=0.3)
    answers: list[httpx.Response] = []
    body = chat("m", stream=stream, max_tokens=3)
    threads = [threading.Thread(target=lambda: answers.append(pair.gateway.post(CHAT, body))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: all(engine.state()["running"] == 1 for engine in pair.engines), "one on each")
    pair.engines[0].kill()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {answer.headers["x-rigserve-attempts"] for answer in answers} == {"1", "2"}
    assert {answer.headers["x-rigserve-backend"] for answer in answers} == {"backend-1"}
    until(lambda: pair.sum("rigserve_retries_total") == 1, "counted")
    seen(status=200, attempts="2, in header and log", metric="retries +1", seats=pair.gateway.seats())


@scenario(3)
def test_killed_before_the_first_token_alone(alone: Doomed, seen: Seen) -> None:
    alone.engines[0].set(ttft_s=5)
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(alone.gateway.post(CHAT, chat("m", stream=True))))
    thread.start()
    until(lambda: alone.engines[0].state()["running"] == 1, "it works")
    alone.engines[0].kill()
    killed_s = time.monotonic()
    thread.join()
    assert time.monotonic() - killed_s < 1
    error = answers[0].json()["error"]
    assert (answers[0].status_code, error["code"]) == (502, "backend_failed")
    assert int(answers[0].headers["retry-after"]) >= 1
    assert alone.sum("rigserve_requests_total", ending="failed", code="backend_failed") == 1
    refused = alone.gateway.post(CHAT, chat("m"))
    assert refused.status_code in (502, 503)
    seen(status="502 backend_failed within 1 s, Retry-After", metric="requests{ending=failed} +1", seats=alone.gateway.seats())


@scenario(4)
def test_accepts_and_never_answers(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("hang")
    answer = Streamed(stack.gateway, chat())
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    until(lambda: stack.solo.state()["aborted"] == 1, "the engine's connection is closed")
    assert stack.rose(FAILURES, backend="backend-0", kind="deadline") == 1
    seen(status="504 timeout", engine="connection closed", metric="backend_failures{kind=deadline} +1", seats=stack.seats_free())


@scenario(5)
def test_stalls_after_tokens(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("stall", after_tokens=10)
    answer = Streamed(stack.gateway, chat(max_tokens=20))
    assert answer.error is not None
    assert (answer.status, answer.whole, len(answer.words), answer.error["code"]) == (200, False, 10, "timeout")
    assert stack.rose(FAILURES, backend="backend-0", kind="deadline") == 1
    until(lambda: stack.solo.state()["aborted"] == 1, "the engine's connection is closed")
    seen(status=200, end="10 tokens, then error event timeout", metric="backend_failures{kind=deadline} +1", seats=stack.seats_free())


@scenario(6)
def test_hangs_with_a_good_health_route(stack: Stack, seen: Seen) -> None:
    """One request finds it out; no other has to wait in vain for the deadline."""
    assert Streamed(stack.gateway, chat()).done, "no failure of an earlier test is counted on"
    stack.solo.fault("hang")
    assert stack.gateway.error(CHAT, chat(stream=True), 504)["code"] == "timeout"
    until(lambda: stack.gateway.backends()["backend-0"]["ejected"], "ejected", 8)
    beats = stack.rose("rigserve_heartbeats_total", backend="backend-0", answered="false")
    assert 3 <= beats <= 4
    begun = time.monotonic()
    assert stack.gateway.error(CHAT, chat(stream=True), 503)["code"] == "no_available_worker"
    assert time.monotonic() - begun < 0.4
    assert stack.gateway.backends()["backend-0"]["state"] == "ready", "its /health says so"
    assert Streamed(stack.gateway, chat("twin")).done, "another model is unaffected"
    assert scrape(stack.gateway).sum("rigserve_backend_ejected", backend="backend-0") == 1
    stack.solo.reset()
    stack.gateway.wait_ready()
    assert Streamed(stack.gateway, chat()).done, "back without anybody's doing"
    seen(status="504, then 503 no_available_worker at once; the other model 200", state="/health 200, ejected; back when it answers",
         metric="heartbeats{answered=false} +3, backend_ejected 1", seats=stack.seats_free())  # fmt: skip


@scenario(7)
def test_slow_but_moving(stack: Stack, seen: Seen) -> None:
    """A token just within each deadline."""
    stack.solo.set(itl_s=0.7)
    answer = Streamed(stack.gateway, chat(max_tokens=4))
    assert answer.done
    assert len(answer.words) == 4
    assert stack.rose("rigserve_breaker_opened_total") == 0
    assert stack.rose(FAILURES) == 0
    seen(status=200, tokens="all, at 70 % of the inter-token deadline", metric="backend_failures +0", seats=stack.seats_free())


@scenario(8)
def test_slow_health(stack: Stack, seen: Seen) -> None:
    """2 s of silence of /health are 20 polls of this gateway."""
    stack.solo.fault("slow_health", delay_s=2)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert stack.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
        assert stack.gateway.backends()["backend-0"]["state"] == "ready"
        time.sleep(0.1)
    assert stack.rose("rigserve_breaker_opened_total") == 0
    seen(status=200, state="ready throughout", metric="breaker_opened +0", seats=stack.seats_free())


def fail(stack: Stack, times: int) -> list[int]:
    """Sends until the broken engine of the twins has failed so often."""
    statuses = []
    end = time.monotonic() + 10
    while stack.rose(FAILURES, backend="backend-1") < times:
        statuses += [answer.status_code for answer in at_once(4, lambda: stack.gateway.post(CHAT, chat("twin", max_tokens=1)))]
        assert time.monotonic() < end
    return statuses


@scenario(9)
def test_five_times_500(stack: Stack, seen: Seen) -> None:
    stack.two.set(ttft_s=0.03)
    stack.one.fault("error_500")
    assert set(fail(stack, 5)) == {200}, "the twin takes over"
    assert stack.gateway.backends()["backend-1"]["breaker"] != "closed"
    asked = len(stack.one.state()["seen"])
    answers = at_once(4, lambda: stack.gateway.post(CHAT, chat("twin", max_tokens=1)))
    assert {answer.headers["x-rigserve-backend"] for answer in answers} == {"backend-2"}
    assert len(stack.one.state()["seen"]) == asked, "an open breaker lets nothing through"
    stack.one.reset()
    until(lambda: stack.gateway.backends()["backend-1"]["breaker"] == "closed", "closed again", 10)
    assert stack.one.state()["heartbeats"] >= 2
    assert stack.rose("rigserve_breaker_opened_total", backend="backend-1") == 1
    seen(status="200 by the twin", breaker="open after 5, no request let through; closed after 2 good heartbeats of one token",
         metric="breaker_opened +1", seats=stack.seats_free())  # fmt: skip


@scenario(10)
def test_a_hundred_times_400(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("error_400")
    answers = [stack.gateway.post(CHAT, chat(max_tokens=1)) for _ in range(100)]
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(400, "invalid_value")}
    assert stack.gateway.backends()["backend-0"]["breaker"] == "closed"
    assert len(stack.solo.state()["seen"]) == 100
    assert stack.rose(FAILURES) == stack.rose("rigserve_breaker_opened_total") == 0
    seen(status="100 x 400 invalid_value", breaker="closed", metric="backend_failures +0", seats=stack.seats_free())


@scenario(11)
def test_all_engines_of_a_model_fail(stack: Stack, seen: Seen) -> None:
    for engine in (stack.one, stack.two):
        engine.fault("error_500")
    statuses, took_s = [], []
    for _ in range(12):
        begun = time.monotonic()
        statuses.append(stack.gateway.post(CHAT, chat("twin", max_tokens=1)).status_code)
        took_s.append(time.monotonic() - begun)
    assert set(statuses) <= {502, 503}
    assert max(took_s) < 1
    until(lambda: stack.gateway.post(CHAT, chat("twin")).status_code == 503, "refused at once: no heartbeat is answered")
    assert stack.gateway.error(CHAT, chat("twin"), 503)["code"] == "no_available_worker"
    for engine in (stack.one, stack.two):
        engine.reset()
    until(lambda: stack.gateway.post(CHAT, chat("twin", max_tokens=1)).status_code == 200, "back by itself", 5)
    seen(status="502, then 503 no_available_worker at once; 200 soon after they are well", metric="breaker_opened +2",
         seats=stack.seats_free())  # fmt: skip
    assert stack.rose("rigserve_breaker_opened_total", model="twin") == 2


@scenario(11)
def test_an_only_engine_that_fails_now_and_then_stays(stack: Stack, seen: Seen) -> None:
    """Panic mode: five requests in a row fail, but it answers heartbeats, so it goes on."""
    assert stack.gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
    stack.solo.fault("error_500", times=5)
    statuses = [stack.gateway.post(CHAT, chat(max_tokens=1)).status_code for _ in range(6)]
    assert statuses == [502] * 5 + [200]
    assert stack.rose("rigserve_breaker_opened_total", backend="backend-0") == 1
    seen(panic="an only engine that answers heartbeats is not taken out: the sixth request is a 200")


@scenario(12)
def test_flapping(stack: Stack, seen: Seen) -> None:
    """20 times: five failures, then well until its breaker has closed. How the time out grows is in tests/gateway/test_breaker.py."""
    stack.two.set(ttft_s=0.1)  # so that it is the other one that is asked first, whatever the machine's load
    lost = 0
    for _ in range(20):
        stack.one.fault("error_500")
        answers = at_once(4, lambda: stack.gateway.post(CHAT, chat("twin", max_tokens=1)))
        lost += sum(answer.status_code != 200 for answer in answers)
        stack.one.reset()
    assert lost == 0
    assert stack.rose("rigserve_requests_total", ending="served") == 80
    opened = stack.rose("rigserve_breaker_opened_total", backend="backend-1")
    assert opened >= 1
    seen(status="80 x 200, none lost", breaker="opened", metric="requests{ending=served} +80", seats=stack.seats_free())


@scenario(13)
@pytest.mark.parametrize("fault", ["bad_chunk", "half_utf8", "split_chunks"])
def test_chunks_that_are_none(stack: Stack, seen: Seen, fault: str) -> None:
    stack.solo.fault(fault, after_tokens=3)
    answer = Streamed(stack.gateway, chat(max_tokens=6))
    assert answer.status == 200
    for event in answer.events:
        assert event == "[DONE]" or isinstance(json.loads(event), dict)
    if fault == "split_chunks":
        assert answer.done
        seen(split_chunks="whole events again, [DONE]", seats=stack.seats_free())
    else:
        assert answer.error is not None
        assert (answer.whole, answer.error["code"]) == (False, "backend_failed")
        assert stack.rose(FAILURES, kind="stream") == 1
        seen(**{fault: "error event backend_failed, then cut"}, metric="backend_failures{kind=stream} +1", seats=stack.seats_free())


@scenario(14)
def test_done_only(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("done_only")
    answer = Streamed(stack.gateway, chat())
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == (502, "backend_failed")
    assert stack.rose(FAILURES, kind="stream") == 1
    seen(status="502 backend_failed", metric="backend_failures{kind=stream} +1", seats=stack.seats_free())


@scenario(15)
def test_a_clean_end_without_done(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("eof_without_done", after_tokens=3)
    answer = Streamed(stack.gateway, chat())
    assert answer.error is not None
    assert (answer.status, answer.whole, answer.done, answer.error["code"]) == (200, False, False, "backend_failed")
    assert stack.rose(FAILURES, backend="backend-0", kind="stream") == 1
    seen(status=200, end="error event backend_failed, then cut", metric="backend_failures{kind=stream} +1", seats=stack.seats_free())


@scenario(16)
def test_a_very_large_event(stack: Stack, seen: Seen) -> None:
    before = resident_kib(stack.gateway)
    stack.solo.fault("big_chunk", after_tokens=2)
    answer = stack.gateway.post(CHAT, chat(max_tokens=4, stream=True))
    assert answer.status_code == 200
    assert len(answer.content) > 10_000_000
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert resident_kib(stack.gateway) - before < 150_000
    seen(big_event="10 MB passed on, less than 150 MB of memory more", seats=stack.seats_free())


@scenario(16)
def test_a_stream_without_end(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("endless")
    stack.solo.set(itl_s=0.001)
    answer = Streamed(stack.gateway, chat(max_tokens=10))
    assert answer.error is not None
    assert (answer.whole, answer.error["code"]) == (False, "backend_failed")
    assert "past the tokens" in answer.error["message"]
    assert 10 < len(answer.words) < 100
    until(lambda: stack.solo.state()["aborted"] == 1, "the engine's connection is closed")
    assert stack.rose(FAILURES, kind="stream") == 1
    seen(endless="cut after twice max_tokens + 64 events, error event backend_failed", metric="backend_failures{kind=stream} +1")


@scenario(17)
def test_another_model_at_the_same_address(alone: Doomed, seen: Seen) -> None:
    alone.engines[0].kill()
    alone.engines.append(process.start("other", port=alone.ports[0]))
    statuses = set()
    end = time.monotonic() + 1.5
    until(lambda: "another model" in (alone.gateway.backends()["backend-0"]["reason"] or ""), "told apart")
    while time.monotonic() < end:
        answer = alone.gateway.post(CHAT, chat("m", max_tokens=1))
        statuses.add((answer.status_code, answer.json()["error"]["code"]))
        time.sleep(0.05)
    assert statuses == {(503, "no_available_worker")}
    assert alone.sum("rigserve_backend_ready") == 0
    seen(status="503 no_available_worker", reason="it serves another model now", metric="backend_ready 0", seats=alone.gateway.seats())


@scenario(18)
def test_the_network_of_one_is_gone(pair: Doomed, seen: Seen) -> None:
    """A stopped process: its host takes connections (or not), and nothing ever comes back."""
    pair.engines[0].process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        answers = at_once(4, lambda: pair.gateway.post(CHAT, chat("m", stream=True, max_tokens=2)))
        took_s = time.monotonic() - begun
    finally:
        pair.engines[0].process.send_signal(signal.SIGCONT)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.headers["x-rigserve-backend"] for answer in answers} == {"backend-1"}
    assert took_s < 2
    assert pair.sum(FAILURES, backend="backend-0", kind="deadline") >= 1
    seen(status="200 from the other one within 2 s", metric="backend_failures{kind=deadline} +1 or more", seats=0)
