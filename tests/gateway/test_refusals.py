"""What is refused, with which status, and with the arithmetic; through HTTP. Nothing refused reaches an engine."""

from __future__ import annotations

import json

import pytest

from tests.gateway.rig import CHAT, MESSAGES, Rig, chat, rig_plan, until

SMOL = "smollm2-135m-instruct"
IMAGES = "/v1/images/generations"


def image(**more):
    return {"model": "digits-sd", "prompt": "a seven", **more}


def test_unknown_model_lists_what_is_served(rig: Rig):
    error = rig.gateway.error(CHAT, chat("nobody"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert SMOL in error["message"]
    assert "digits-sd" in error["message"]


def test_a_misspelt_model_gets_the_nearest_of_the_catalogue(rig: Rig):
    assert "llama-3.1-8b-instruct" in rig.gateway.error(CHAT, chat("lama-3.1-8b-instruct"), 404)["message"]


def test_model_that_fits_no_card(rig: Rig):
    answer = rig.gateway.post(CHAT, chat("Qwen/Qwen2.5-32B-Instruct"))
    assert answer.status_code == 422
    assert answer.headers["x-should-retry"] == "false"
    body = answer.json()
    assert (body["error"]["code"], body["error"]["param"]) == ("model_does_not_fit", "model")
    assert [report["card_id"] for report in body["fit"]] == ["sim-0", rig_plan().cards[1].id]
    for report in body["fit"]:
        assert report["fits"] is False
        assert report["need_bytes"] > report["have_bytes"]
        bill = report["bill"]
        lines = ("weights_bytes", "kv_cache_bytes", "activation_bytes", "engine_bytes", "graphs_bytes", "reserve_bytes")
        assert sum(bill[line] for line in lines) == bill["total_bytes"] == report["need_bytes"]
        assert report["hints"], "what would fit instead"
    assert body["fit"][0]["simulated"] is True
    assert "GiB" in body["error"]["message"]
    assert body["fit"][0]["hints"][0]["text"] in body["error"]["message"]


def test_model_that_would_fit_but_is_not_planned(rig: Rig):
    error = rig.gateway.error(CHAT, chat("llama-3.2-1b-instruct"), 404)
    assert error["code"] == "model_not_found"
    assert "sim-0" in error["message"]
    assert "rigserve plan --want llama-3.2-1b-instruct" in error["message"]


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat("digits-sd")), (IMAGES, image(model=SMOL))])
def test_wrong_kind_of_model(rig: Rig, path, body):
    error = rig.gateway.error(path, body, 400)
    assert (error["code"], error["param"]) == ("invalid_value", "model")


@pytest.mark.parametrize(("model", "engine"), [(SMOL, "llm-vllm"), ("qwen2.5-0.5b-instruct", "llm-llamacpp")])
def test_prompt_longer_than_the_context(rig: Rig, model, engine):
    long = [{"role": "user", "content": "word " * 600}]
    error = rig.gateway.error(CHAT, {"model": model, "messages": long}, 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "604 tokens" in error["message"]
    assert "512 tokens" in error["message"]
    assert "Simulated CPU card" in error["message"]
    prompt = rig.gateway.error("/v1/completions", {"model": model, "prompt": "word " * 600, "max_tokens": 1}, 400)
    assert (prompt["code"], prompt["param"]) == ("context_length_exceeded", "prompt")
    assert rig.engines[engine].state()["seen"] == []


@pytest.mark.parametrize(("words", "max_tokens", "fits"), [(408, 100, True), (408, 101, False)])
def test_the_edge_of_the_context(rig: Rig, words, max_tokens, fits):
    """408 words + 4 of the template + 100 = 512, the context: fits. One more does not."""
    body = {"model": SMOL, "messages": [{"role": "user", "content": "w " * words}], "max_tokens": max_tokens}
    answer = rig.gateway.post(CHAT, body)
    if fits:
        assert answer.json()["usage"]["total_tokens"] == 512
    else:
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert "513" in answer.json()["error"]["message"]


def test_more_output_than_context_needs_no_tokenizer(rig: Rig):
    error = rig.gateway.error(CHAT, chat(SMOL, max_completion_tokens=512), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_completion_tokens")


def test_token_ids_are_counted_without_the_engine(rig: Rig):
    error = rig.gateway.error("/v1/completions", {"model": SMOL, "prompt": [[1, 2], [7] * 600]}, 400)
    assert "600 tokens" in error["message"]


def test_image_larger_than_the_placement(rig: Rig):
    answer = rig.gateway.post(IMAGES, image(size="1024x1024"))
    assert answer.status_code == 400
    body = answer.json()
    assert (body["error"]["code"], body["error"]["param"]) == ("image_too_large", "size")
    assert "32x32" in body["error"]["message"]
    assert "Simulated CPU card" in body["error"]["message"]
    assert body["fit"][0]["workload"] == {"width_px": 1024, "height_px": 1024, "batch": 1, "steps": None, "kind": "image"}
    assert body["fit"][0]["bill"]["total_bytes"] == body["fit"][0]["need_bytes"]


@pytest.mark.parametrize("size", ["8192x8192", "40x32", "32x40", "999992x8"])
def test_every_too_large_size_says_so(rig: Rig, size):
    assert rig.gateway.error(IMAGES, image(size=size), 400)["code"] == "image_too_large"


@pytest.mark.parametrize(("field", "value"), [
    ("size", "33x32"), ("size", "0x0"), ("size", "32"), ("size", "32x32x32"), ("size", "-8x8"), ("size", "１６x16"), ("size", 32),
    ("n", 0), ("n", 100), ("n", "2"), ("n", True), ("steps", 0), ("steps", -1), ("steps", 10**6), ("seed", -1), ("seed", 2**80),
    ("guidance_scale", -1), ("guidance_scale", 1e9), ("guidance_scale", "7"), ("prompt", ""), ("prompt", None), ("prompt", ["x"]),
    ("negative_prompt", 5), ("response_format", "jpeg"), ("response_format", 1), ("stream", "yes"), ("prompt", "x" * 5000),
    ("init_image", "http://127.0.0.1/x.png"), ("lora_path", "/etc/passwd"), ("unet_path", "x"),
])
def test_bad_image_fields(rig: Rig, field, value):
    error = rig.gateway.error(IMAGES, image(**{field: value}), 400)
    assert error["param"] == field
    assert rig.engines["digits"].state()["seen"] == []


def test_pictures_for_a_text_model(rig: Rig):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    error = rig.gateway.error(CHAT, {"model": SMOL, "messages": [{"role": "user", "content": [part]}]}, 400)
    assert (error["code"], error["param"]) == ("invalid_value", "messages")


def test_logit_bias_outside_the_vocabulary(rig: Rig):
    error = rig.gateway.error(CHAT, chat(SMOL, logit_bias={"999999": 1}), 400)
    assert error["param"] == "logit_bias"
    assert rig.gateway.post(CHAT, chat(SMOL, logit_bias={"1": 1}, max_tokens=2)).status_code == 200


def test_structured_outputs_are_for_vllm(rig: Rig):
    """llama.cpp would ignore it; a --backend of an unknown engine gets it (test_bad_input: known fields pass untouched)."""
    wanted = {"max_tokens": 1, "structured_outputs": {"regex": "[0-9]"}}
    error = rig.gateway.error(CHAT, chat("qwen2.5-0.5b-instruct", **wanted), 400)
    assert error["param"] == "structured_outputs"
    assert "response_format" in error["message"]
    assert rig.engines["llm-llamacpp"].state()["seen"] == []
    assert rig.gateway.post(CHAT, chat(SMOL, **wanted)).status_code == 200
    assert rig.engines["llm-vllm"].state()["seen"][-1]["body"]["structured_outputs"] == {"regex": "[0-9]"}


def test_the_engines_own_context_error_gets_our_code(rig: Rig):
    """The engine's context may be less than the plan says; its words are kept."""
    for name, model in (("llm-vllm", SMOL), ("llm-llamacpp", "qwen2.5-0.5b-instruct")):
        rig.engines[name].set(context=10)
        error = rig.gateway.error(CHAT, chat(model, max_tokens=9), 400)
        assert error["code"] == "context_length_exceeded"
        assert "10 tokens" in error["message"]


@pytest.mark.parametrize("state", ["starting", "loading", "warming", "restarting"])
def test_a_model_that_is_coming_up(rig: Rig, state):
    engine = rig.engines["llm-vllm"]
    engine.set(worker_state=state)
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == state, state)
    answer = rig.gateway.post(CHAT, chat(SMOL))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_starting")
    assert 1 <= int(answer.headers["retry-after"]) <= 8, "the fake's load_s is 7.5"


def test_a_model_that_has_failed(rig: Rig):
    rig.engines["llm-vllm"].set(worker_state="failed")
    until(lambda: rig.gateway.backends()["llm-vllm"]["state"] == "failed", "failed")
    error = rig.gateway.error(CHAT, chat(SMOL), 503)
    assert error["code"] == "no_available_worker"
    assert "told to be failed" in error["message"]
    assert rig.gateway.post(CHAT, chat("qwen2.5-0.5b-instruct", max_tokens=1)).status_code == 200, "the other model is not concerned"


def test_the_engines_token_is_sent_and_the_clients_key_is_not(rig: Rig):
    rig.gateway.post(CHAT, chat(SMOL, max_tokens=1), headers={"authorization": "Bearer sk-client"})
    headers = rig.engines["llm-vllm"].state()["seen"][-1]["headers"]
    assert headers["authorization"] == "Bearer token-of-llm-vllm"
    assert "sk-client" not in json.dumps(headers)


def test_one_image_model_needs_no_name(rig: Rig):
    assert rig.gateway.post(IMAGES, {"prompt": "a seven", "size": "auto"}).status_code == 200
    assert rig.engines["digits"].state()["seen"][-1]["body"]["size"] == "32x32"


def test_messages_are_needed(rig: Rig):
    assert rig.gateway.error(CHAT, {"model": SMOL}, 400)["param"] == "messages"
    assert rig.gateway.error(CHAT, {"messages": MESSAGES}, 400)["param"] == "model"
