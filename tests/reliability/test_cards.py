"""R8: what fits, and cards that fail. Cards here are simulated; a real NVML error needs a card that breaks."""

from __future__ import annotations

from pathlib import Path

from services.sizing.cards import parse_cards
from services.sizing.types import Engine, Plan, TextWorkload
from tests.gateway.rig import CHAT, HOST, Rig, chat, placement, start_engines, start_gateway, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Metrics, at_once, scrape, way_flags
from tests.reliability.test_images import _started, before, pytestmark, rig, rose  # noqa: F401

SMOL = "smollm2-135m-instruct"


@scenario(75)
def test_a_model_that_no_card_holds(rig: Rig, before: Metrics, seen: Seen) -> None:  # noqa: F811
    answer = rig.gateway.post(CHAT, chat("qwen2.5-32b-instruct"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_does_not_fit")
    for report in answer.json()["fit"]:
        assert report["need_bytes"] > report["have_bytes"]
        assert sum(report["bill"][line] for line in report["bill"] if line.endswith("_bytes") and line != "total_bytes") > 0
    assert answer.headers["x-should-retry"] == "false"
    assert rose(rig, before, "rigserve_fit_rejected_total", reason="model_does_not_fit") == 1
    seen(status=422, body="model_does_not_fit with need and have of each card; nothing is fetched", metric="fit_rejected +1",
         seats=rig.gateway.seats())  # fmt: skip


@scenario(76)
def test_a_context_too_long_for_the_card(rig: Rig, before: Metrics, seen: Seen) -> None:  # noqa: F811
    """Asked of POST /v1/fit: refused, with a context that would fit. Beside another model: the planner's own tests (tests/sizing)."""
    asked = {"model": "llama-3.2-1b-instruct", "cards": "RTX 3060 Ti:1", "context_tokens": 131072, "sequences": 64}
    answer = rig.gateway.post("/v1/fit", asked)
    assert answer.status_code == 200, answer.text
    report = answer.json()["reports"][0]
    assert (answer.json()["fits"], report["fits"]) == (False, False)
    assert report["need_bytes"] > report["have_bytes"]
    assert report["hints"], "what would fit instead"
    seen(answer="does not fit, need and have in bytes, a smaller context or fewer sequences offered", status="200 of /v1/fit",
         seats=rig.gateway.seats())  # fmt: skip


@scenario(77)
def test_a_card_that_is_lost(rig: Rig, before: Metrics, seen: Seen) -> None:  # noqa: F811
    """The worker says failed (its card does not answer): no request goes there, and nothing here starts it again."""
    engine = rig.engines["llm-vllm"]
    engine.set(worker_state="failed")
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == "failed", "the gateway knows")
    answer = rig.gateway.post(CHAT, chat(SMOL))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_available_worker")
    assert "failed" in answer.json()["error"]["message"]
    assert rig.gateway.post(CHAT, chat("qwen2.5-0.5b-instruct", max_tokens=1)).status_code == 200, "the others go on"
    assert rose(rig, before, "rigserve_requests_total", code="no_available_worker") == 1
    assert rose(rig, before, "rigserve_backend_state", backend="llm-vllm", state="failed") == 1
    seen(status=503, body="no_available_worker with the worker's reason", others="served",
         metric="backend_state{state=failed} 1", restart="never (worker: tests/worker)", seats=rig.gateway.seats())  # fmt: skip


@scenario(78)
def test_a_card_that_throttles(tmp_path: Path, way: str, seen: Seen) -> None:
    """One model on two like cards, each of which had its part of the requests: one is held back by its driver, and five times slower."""
    cards = parse_cards("GTX 1060 3GB:2")
    places = tuple(placement(name, card, SMOL, TextWorkload(512, 2), Engine.LLAMACPP) for name, card in zip(("a", "b"), cards, strict=True))
    flags, engines = start_engines(tmp_path, Plan(1, HOST, cards, places))
    gateway = start_gateway(tmp_path, *flags, *way_flags(way))

    def ask_in_turn() -> set[int]:
        return {gateway.post(CHAT, chat(SMOL, max_tokens=5, stream=True)).status_code for _ in range(10)}

    def served() -> tuple[int, int]:
        """How many requests each card got of three clients' 30: one has two seats, so at three at a time both always work."""
        earlier = [engine.state()["served"] for engine in engines.values()]
        assert at_once(3, ask_in_turn) == [{200}] * 3
        now = [engine.state()["served"] for engine in engines.values()]
        return now[0] - earlier[0], now[1] - earlier[1]

    try:
        gateway.wait_ready()
        for engine in engines.values():
            engine.set(itl_s=0.01)
        before_it = served()
        assert min(before_it) >= 6, "both work"
        hot = {"throttle_reasons": ["hw_thermal_slowdown"]}
        engines["b"].set(itl_s=0.05, status={"card_state": "throttled", "card_reason": "held back by: thermal", "telemetry": hot})
        until(lambda: gateway.http.get("/v1/cards").json()["data"][1]["state"] == "throttled", "the gateway knows")
        served()  # learns it
        after_it = served()
        assert after_it[1] <= min(before_it) / 2
        shown = gateway.http.get("/v1/cards").json()["data"]
        assert [(card["state"], card["state_reason"]) for card in shown] == [(None, None), ("throttled", "held back by: thermal")]
        now = scrape(gateway)
        assert now.sum("rigserve_card_state", card=cards[1].id, state="throttled") == 1
        assert now.sum("rigserve_card_throttle_reason", card=cards[1].id, reason="hw_thermal_slowdown") == 1
        assert gateway.backends()["b"]["state"] == "ready", "slow is not broken: it still takes what the other can't"
        until(lambda: gateway.seats() == 0, "all seats back to 0")
        seen(card="throttled, with the reason", metric="card_state{state=throttled} 1, card_throttle_reason{reason} 1",
             share=f"{after_it[1]} of 30 requests, {before_it[1]} of 30 before", ejected="no", seats=0)  # fmt: skip
    finally:
        gateway.stop()
        for engine in engines.values():
            engine.stop()
