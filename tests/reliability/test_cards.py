"""R8: what fits, and cards that fail. Cards here are simulated; a real NVML error needs a card that breaks."""

from __future__ import annotations

from tests.gateway.rig import CHAT, Rig, chat, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Metrics
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
