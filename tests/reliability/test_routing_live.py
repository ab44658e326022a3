"""Routing through a live gateway that was told nothing but addresses: what it learns of its engines, and what it does with it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, chat, start_gateway, until
from tests.reliability.stack import way_flags

pytestmark = pytest.mark.reliability
StartEngine = Callable[..., FakeEngineProcess]
FAST, SLOW = "backend-0", "backend-1"
FAST_S, SLOW_S, TOKENS = 0.03, 0.09, 8
FAST_SLOTS, SLOW_SLOTS = 6, 2


class Pair:
    """An engine that is three times as fast and runs three times as many at a time as the other, and one that draws."""

    def __init__(self, folder: Path, way: str, start: StartEngine) -> None:
        self.fast = start("pair", itl_s=FAST_S, slots=FAST_SLOTS)
        self.slow = start("pair", itl_s=SLOW_S, slots=SLOW_SLOTS)
        self.draws = start("sd-1.5", flavour="diffusers", step_s=0.05)
        flags = [f"--backend={model}={e.url}" for model, e in (("pair", self.fast), ("pair", self.slow), ("sd-1.5", self.draws))]
        self.gateway: GatewayProcess = start_gateway(folder, *flags, *way_flags(way))
        self.gateway.wait_ready()

    def ask(self, clients: int, seconds: float) -> Counter[str]:
        """Clients that ask without a pause. Answers by backend, of those that were asked in the second half of the time."""
        begin_s, answered = time.monotonic(), Counter[str]()

        def go() -> None:
            while (asked_s := time.monotonic() - begin_s) < seconds:
                answer = self.gateway.post(CHAT, chat("pair", stream=True, max_tokens=TOKENS))
                assert answer.status_code == 200, answer.text
                answered[answer.headers["x-rigserve-backend"]] += asked_s > seconds / 2

        threads = [threading.Thread(target=go) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answered


@pytest.fixture
def pair(tmp_path: Path, way: str, fake_engine: StartEngine) -> Iterator[Pair]:
    pair = Pair(tmp_path, way, fake_engine)
    yield pair
    pair.gateway.stop()


def test_requests_go_where_they_are_served_fastest(pair: Pair) -> None:
    """1. All busy: each engine gets what it can do, and its slots are found: more than at first of one, fewer of the other. 2. Little to
    do: the fast one does it. 3. The fast one turns 5x slower, slower than the other: it loses what it had.
    The bounds are wide: what the engines can do while others use this machine is measured too, by the gateway."""
    busy = pair.ask(clients=12, seconds=5)  # 1
    learned = pair.gateway.backends()
    able = FAST_SLOTS / learned[FAST]["measured_unit_s"] / (SLOW_SLOTS / learned[SLOW]["measured_unit_s"])
    found = {name: (learned[name]["slots"], learned[name]["measured_unit_s"]) for name in (FAST, SLOW)}
    print(f"busy: {dict(busy)}, able {able:.1f} : 1, slots and seconds per token: {found}")
    assert learned[FAST]["slots"] > 4 > learned[SLOW]["slots"]
    assert 1.8 < learned[SLOW]["measured_unit_s"] / learned[FAST]["measured_unit_s"] < 5
    assert 1 / 3 < busy[FAST] / busy[SLOW] / able < 3
    quiet = pair.ask(clients=2, seconds=2)  # 2
    print(f"quiet: {dict(quiet)}")
    assert quiet[FAST] > 4 * quiet[SLOW]
    pair.fast.set(itl_s=5 * FAST_S)  # 3
    turned = pair.ask(clients=2, seconds=4)
    print(f"turned slow: {dict(turned)}")
    assert turned[FAST] < turned[SLOW]


def test_a_hopeless_wait_is_refused_at_once_and_batch_may_wait(tmp_path: Path, way: str, fake_engine: StartEngine) -> None:
    engine = fake_engine("m", ttft_s=1.0)
    gateway = start_gateway(tmp_path, f"--backend=m={engine.url}", "--limit-backend-slots=1", "--deadline-ttft-s=0.4", *way_flags(way))
    answers: list[Any] = []
    try:
        gateway.wait_ready()
        assert gateway.post(CHAT, chat("m", max_tokens=1)).status_code == 200, "what a request takes is known now"
        thread = threading.Thread(target=lambda: answers.append(gateway.post(CHAT, chat("m", max_tokens=1))))
        thread.start()
        until(lambda: gateway.seats() == 1, "the one slot is taken")
        begin_s = time.monotonic()
        refused = gateway.post(CHAT, chat("m", max_tokens=1))
        took_s = time.monotonic() - begin_s
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert took_s < 0.5, "it did not wait first"
        batch = gateway.post(CHAT, chat("m", max_tokens=1, priority=1))
        assert batch.status_code == 200
        assert engine.state()["seen"][-1]["body"] == chat("m", max_tokens=1), "the priority is for the gateway"
        thread.join()
        assert answers[0].status_code == 200
    finally:
        gateway.stop()


def test_images_wait_in_a_line_of_their_own(pair: Pair) -> None:
    answers: list[Any] = []
    body = {"model": "sd-1.5", "prompt": "a cat", "size": "64x64", "steps": 10}
    threads = [threading.Thread(target=lambda: answers.append(pair.gateway.post("/v1/images/generations", body))) for _ in range(3)]
    for thread in threads:
        thread.start()

    def waiting() -> dict[str, int]:
        return {model["id"]: model["waiting"] for model in pair.gateway.http.get("/v1/throughput?window=10s").json()["models"]}

    until(lambda: waiting() == {"pair": 0, "sd-1.5": 2}, "one image is drawn and two wait")
    text = pair.gateway.post(CHAT, chat("pair", max_tokens=2))
    assert (text.status_code, text.headers["x-rigserve-queue-ms"]) == (200, "0"), "no text waits for them"
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    waits_ms = sorted(int(answer.headers["x-rigserve-queue-ms"]) for answer in answers)
    assert waits_ms[0] < 100
    assert waits_ms[1] > 300
    assert waits_ms[2] > 800
    drawn = pair.gateway.backends()["backend-2"]
    assert drawn["slots"] == 1
    assert drawn["measured_unit_s"] > 0.4, "what an image takes is learned"
