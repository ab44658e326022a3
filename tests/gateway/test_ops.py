"""Our own routes: cards, throughput, fit, metrics, health."""

from __future__ import annotations

import pytest

from tests.gateway.rig import CHAT, Rig, chat, until

SMOL = "smollm2-135m-instruct"


def test_cards(rig: Rig):
    listed = rig.gateway.http.get("/v1/cards").json()
    simulated, real = listed["data"]
    assert (simulated["id"], simulated["simulated"], real["simulated"]) == ("sim-0", True, False)
    assert real["placements"] == []
    assert {place["id"]: place["model_id"] for place in simulated["placements"]} == {
        "llm-vllm": SMOL, "llm-llamacpp": "qwen2.5-0.5b-instruct", "digits": "digits-sd"}
    place = simulated["placements"][0]
    assert (place["engine"], place["state"], place["slots"], place["in_flight"]) == ("vllm", "ready", 2, 0)
    assert place["status"]["resident_bytes"] == 300_000_000
    assert place["status"]["engine_pid"] == 4242
    assert place["bill"]["total_bytes"] > place["bill"]["weights_bytes"] > 0
    assert simulated["planned_bytes"] == sum(p["bill"]["total_bytes"] for p in simulated["placements"]) <= simulated["total_bytes"]
    assert "token-of" not in rig.gateway.http.get("/v1/cards").text


def test_a_worker_that_says_restarting_shows_within_a_second(rig: Rig):
    rig.engines["llm-vllm"].set(worker_state="restarting")
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == "restarting", "restarting", 1)
    assert rig.gateway.backends()["llm-vllm"]["reason"] == "the fake is told to be restarting"


def test_the_worker_of_another_placement_is_not_believed(rig: Rig):
    rig.engines["llm-vllm"].set(placement="somebody-else")
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == "unreachable", "unreachable", 1)


def test_throughput_counts_what_the_engine_says(rig: Rig):
    """20 tokens at 10 ms each: 22 events that must not be counted, 20 tokens that must."""
    rig.engines["llm-vllm"].set(itl_s=0.01)
    before = rig.gateway.http.get("/v1/throughput?window=1h").json()
    for _ in range(2):
        rig.gateway.post(CHAT, chat(SMOL, stream=True, max_tokens=20))

    def tokens(report, name):
        entry = next(model for model in report["models"] if model["id"] == SMOL)
        return round((entry[name] or 0) * report["covered_s"])

    def report():
        return rig.gateway.http.get("/v1/throughput?window=1h").json()

    # A request enters the meters when it has ended, a moment after the client has its last byte.
    until(lambda: tokens(report(), "output_tokens_per_s") - tokens(before, "output_tokens_per_s") > 30, "both are counted")
    after = report()
    assert tokens(after, "output_tokens_per_s") - tokens(before, "output_tokens_per_s") == pytest.approx(40, abs=1)
    assert tokens(after, "prompt_tokens_per_s") - tokens(before, "prompt_tokens_per_s") == pytest.approx(14, abs=1)
    model = next(model for model in after["models"] if model["id"] == SMOL)
    assert model["cards"] == ["sim-0"]
    assert model["ttft_s"]["n"] >= 2
    assert 0 < model["ttft_s"]["p50"] <= model["ttft_s"]["p95"] < 2
    assert 0.008 < model["tpot_s"]["p95"] < 0.1
    assert model["peak_output_tokens_per_s"]["value"] > 0
    card = next(card for card in after["cards"] if card["id"] == "sim-0")
    assert card["output_tokens_per_s"] >= model["output_tokens_per_s"]


def test_unknown_is_null_with_a_reason(rig: Rig):
    report = rig.gateway.http.get("/v1/throughput?window=1m").json()
    model = next(model for model in report["models"] if model["id"] == "qwen2.5-0.5b-instruct")
    assert model["images_per_s"] is None
    assert "no image request" in model["reasons"]["images_per_s"]
    assert model["ttft_s"]["n"] >= 0


def test_refusals_are_counted_by_reason(rig: Rig):
    def refused():
        return rig.gateway.http.get("/v1/throughput?window=1h").json()["totals"]["refused"]

    before = refused()
    rig.gateway.post(CHAT, chat("nobody"))
    rig.gateway.post(CHAT, chat("qwen2.5-32b-instruct"))
    rig.gateway.post(CHAT, chat(SMOL, max_tokens=4000))
    after = refused()
    for code in ("model_not_found", "model_does_not_fit", "context_length_exceeded"):
        assert after[code] == before.get(code, 0) + 1
    metrics = rig.gateway.http.get("/metrics").text
    assert 'rigserve_fit_rejected_total{reason="model_does_not_fit"}' in metrics
    assert 'model="nobody"' not in metrics
    assert 'code="model_not_found",ending="refused",model="other"' in metrics


@pytest.mark.parametrize("window", ["10s", "1m", "5m", "1h"])
def test_windows(rig: Rig, window):
    report = rig.gateway.http.get(f"/v1/throughput?window={window}").json()
    assert (report["object"], report["window"]) == ("throughput", window)
    assert report["covered_s"] <= report["window_s"]


def test_bad_window_and_all(rig: Rig):
    answer = rig.gateway.http.get("/v1/throughput?window=2d")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "window")
    assert [r["window"] for r in rig.gateway.http.get("/v1/throughput?window=all").json()["data"]] == ["10s", "1m", "5m", "1h"]


def test_metrics_have_the_names_of_the_field(rig: Rig):
    rig.gateway.post(CHAT, chat(SMOL, stream=True, max_tokens=4))
    text = rig.gateway.http.get("/metrics").text
    labels = 'card="sim-0",gen_ai_operation_name="chat",gen_ai_request_model="smollm2-135m-instruct"'
    for name in ("gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds"):
        assert f"{name}_count{{{labels}}}" in text
    assert f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="output"}}' in text
    assert 'rigserve_backend_ready{backend="llm-vllm",card="sim-0",model="smollm2-135m-instruct"} 1.0' in text
    assert 'rigserve_requests_waiting{model="digits-sd"} 0.0' in text


def test_ready(rig: Rig):
    assert rig.gateway.http.get("/readyz").json() == {
        "status": "ready", "models": {SMOL: "ready", "qwen2.5-0.5b-instruct": "ready", "digits-sd": "ready"}}


def fit(rig: Rig, **body):
    answer = rig.gateway.post("/v1/fit", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_fit_of_the_cards_of_the_plan(rig: Rig):
    answer = fit(rig, model="Qwen/Qwen2.5-32B-Instruct")
    assert (answer["object"], answer["model"], answer["fits"]) == ("fit", "qwen2.5-32b-instruct", False)
    assert answer["reports"] == rig.gateway.post(CHAT, chat("qwen2.5-32b-instruct")).json()["fit"], "one arithmetic, two readers"


def test_fit_of_other_cards_and_workloads(rig: Rig):
    answer = fit(rig, model="llama-3.1-8b-instruct", cards="RTX 3060 Ti:2", context_tokens=2048, sequences=2, variant="Q4_K_M",
        engine="llamacpp")
    assert len(answer["reports"]) == 2
    report = answer["reports"][0]
    assert (report["workload"]["context_tokens"], report["workload"]["sequences"]) == (2048, 2)
    assert (report["choice"]["engine"], report["quant"]) == ("llama.cpp", "Q4_K_M")
    assert report["need_bytes"] == report["bill"]["total_bytes"]
    image = fit(rig, model="sd-1.5", cards="RTX 3060 Ti:1", width_px=768)
    assert image["reports"][0]["workload"]["height_px"] == 768


@pytest.mark.parametrize(("body", "status", "param"), [
    ({}, 400, "model"), ({"model": "nobody"}, 404, "model"), ({"model": SMOL, "cards": "no such card:1"}, 400, "cards"),
    ({"model": SMOL, "cards": ""}, 400, "cards"), ({"model": SMOL, "cards": "RTX 3060 Ti:100000000"}, 400, "cards"),
    ({"model": SMOL, "width_px": 64}, 400, "width_px"), ({"model": "sd-1.5", "sequences": 2}, 400, "sequences"),
    ({"model": SMOL, "context_tokens": 2**23}, 400, "context_tokens"), ({"model": SMOL, "context_tokens": "8k"}, 400, "context_tokens"),
    ({"model": SMOL, "variant": "q9"}, 400, "variant"), ({"model": SMOL, "engine": "tgi"}, 400, "engine"),
    ({"model": SMOL, "ctx": 5}, 400, "ctx"),
    ({"model": SMOL, "sequences": 0}, 400, "sequences"), ({"model": SMOL, "sequences": True}, 400, "sequences"),
])
def test_bad_fit_questions(rig: Rig, body, status, param):
    assert rig.gateway.error("/v1/fit", body, status)["param"] == param


def test_fit_without_a_plan_needs_cards(loose):
    assert loose.gateway.error("/v1/fit", {"model": SMOL}, 400)["param"] == "cards"
    assert loose.gateway.post("/v1/fit", {"model": SMOL, "cards": "RTX 3060 Ti:1"}).json()["fits"] is True


def test_without_a_plan_an_unknown_model_is_404(loose):
    error = loose.gateway.error(CHAT, chat("qwen2.5-32b-instruct"), 404)
    assert error["code"] == "model_not_found"
    assert "solo" in error["message"]
