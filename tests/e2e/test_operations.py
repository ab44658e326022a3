"""Fit answers, refusals, cards, throughput and bad input, on the running stack."""

from __future__ import annotations

import json
import time
import urllib.request

import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import IMAGE, LLM
from tests.e2e.stack import RunningStack, get, post

pytestmark = pytest.mark.engine
TOO_BIG = "qwen2.5-32b-instruct"


def test_a_model_that_fits_no_card(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as error:
        client.chat.completions.create(model=TOO_BIG, messages=[{"role": "user", "content": "hi"}])
    assert error.value.code == "model_does_not_fit"
    report = error.value.response.json()["fit"][0]
    bill = report["bill"]
    lines = ("weights_bytes", "kv_cache_bytes", "activation_bytes", "engine_bytes", "graphs_bytes", "reserve_bytes")
    assert sum(bill[name] for name in lines) == bill["total_bytes"] == report["need_bytes"] > report["have_bytes"]
    assert report["simulated"] is True
    assert report["hints"], "what would fit instead is part of the refusal"


def test_unknown_model_lists_what_is_served(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-17", messages=[{"role": "user", "content": "hi"}])
    assert error.value.code == "model_not_found"
    assert LLM in error.value.message
    assert IMAGE in error.value.message


def test_fit_answers_the_same_question_without_a_request(stack: RunningStack) -> None:
    status, body, _ = post(f"{stack.url}/v1/fit", {"model": TOO_BIG})
    assert status == 200
    assert [r["verdict"] for r in body["reports"]] == ["does_not_fit"]
    status, body, _ = post(f"{stack.url}/v1/fit", {"model": LLM, "cards": "RTX 3060 Ti:1"})
    assert body["reports"][0]["verdict"] == "fits"


def test_two_bills_add_up_to_less_than_the_budget(stack: RunningStack) -> None:
    (card,) = get(f"{stack.url}/v1/cards")["data"]
    assert card["simulated"] is True
    assert {p["model_id"] for p in card["placements"]} == {LLM, IMAGE}
    assert sum(p["bill"]["total_bytes"] for p in card["placements"]) < card["total_bytes"]


def test_measured_memory_is_within_the_bill(stack: RunningStack) -> None:
    for model, placement in stack.placements.items():
        peak, need = placement["status"]["peak_bytes"], placement["bill"]["total_bytes"]
        assert peak is not None
        assert peak <= need, f"{model}: measured {peak / 2**20:.0f} MiB, bill {need / 2**20:.0f} MiB"


def test_throughput_counts_what_the_engines_counted(stack: RunningStack, client: OpenAI) -> None:
    def counted() -> tuple[int, int]:
        text = urllib.request.urlopen(f"{stack.url}/metrics", timeout=10).read().decode()
        found = {"input": 0, "output": 0}
        for line in text.splitlines():
            if line.startswith("gen_ai_client_token_usage_sum{") and LLM in line:
                for kind in found:
                    found[kind] += int(float(line.rsplit(" ", 1)[1])) if f'"{kind}"' in line else 0
        return found["input"], found["output"]

    before = counted()
    plain = client.chat.completions.create(model=LLM, messages=[{"role": "user", "content": "Count to ten."}], max_tokens=20)
    chunks = list(client.chat.completions.create(model=LLM, messages=[{"role": "user", "content": "Count to ten."}], max_tokens=20,
                                                 stream=True, stream_options={"include_usage": True}))
    usages = [plain.usage, chunks[-1].usage]
    after = counted()
    assert after[0] - before[0] == sum(u.prompt_tokens for u in usages)
    assert after[1] - before[1] == sum(u.completion_tokens for u in usages)
    client.images.generate(model=IMAGE, prompt="seven", n=2, extra_body={"steps": 4})
    body = get(f"{stack.url}/v1/throughput")
    assert LLM in json.dumps(body["models"])
    assert LLM in json.dumps(body["cards"])


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_as_the_client_counts_them(stack: RunningStack, client: OpenAI, stream: bool) -> None:
    """A log probability comes with each output token, so the client counts them itself, and nobody has to ask for usage."""

    def counted() -> dict[str, int]:
        told, used = get(f"{stack.url}/v1/throughput?window=1h"), get(f"{stack.url}/v1/usage")
        row = next(one for one in told["backends"] if one["model"] == LLM)
        return {"throughput": round((row["output_tokens_per_s"] or 0) * told["covered_s"]),
                "usage": sum(one["output_tokens"] for one in used["data"] if one["model"] == LLM)}

    before, seen = counted(), 0
    for number in range(4):
        said = [{"role": "user", "content": f"Write a story of {number} cats."}]
        asked = {"model": LLM, "messages": said, "max_tokens": 48, "logprobs": True}
        if stream:
            chunks = client.chat.completions.create(**asked, stream=True)
            choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
        else:
            choices = client.chat.completions.create(**asked).choices
        seen += sum(len(choice.logprobs.content or ()) for choice in choices if choice.logprobs)
    time.sleep(0.5)  # a request is counted a moment after its last byte
    after = counted()
    assert seen > 40
    for who, count in after.items():
        assert count - before[who] == pytest.approx(seen, rel=0.01, abs=1), who


def test_health_ready_metrics(stack: RunningStack) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        with urllib.request.urlopen(stack.url + path, timeout=10) as answer:
            assert answer.status == 200


BAD_BODIES = [
    b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"model": "\\ud800"}', b"{" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    {"model": LLM}, {"model": 3, "messages": []}, {"model": LLM, "messages": []}, {"model": LLM, "messages": "hi"},
    {"model": LLM, "messages": [{"role": "user"}]}, {"model": LLM, "messages": [{"role": "hacker", "content": "hi"}]},
    *({"model": LLM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **extra} for extra in (
        {"temperature": -1}, {"temperature": "NaN"}, {"temperature": True}, {"top_p": 2}, {"n": 0}, {"n": 10**6}, {"max_tokens": -5},
        {"max_tokens": 2**80}, {"max_tokens": 0.5}, {"logprobs": True, "top_logprobs": 10**6}, {"stop": ["x"] * 1000}, {"seed": 2**80},
        {"logit_bias": {"999999999": 1}}, {"stream": "yes"}, {"tools": "all"}, {"response_format": {"type": "json_schema"}},
        {"api_base": "http://127.0.0.1:1"}, {"lora_path": "/etc/passwd"}, {"prompt_embeds": "AAAA"}, {"chat_template": "{{ 1 }}"},
    )),
    b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}' % LLM.encode(),
    b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}' % LLM.encode(),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda b: str(b)[:60])
def test_bad_chat_bodies(stack: RunningStack, body: object) -> None:
    status, answer, _ = post(f"{stack.url}/v1/chat/completions", body)
    assert 400 <= status < 500, (status, answer)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer["error"]["message"]


def test_fifty_megabytes(stack: RunningStack) -> None:
    body = {"model": LLM, "messages": [{"role": "user", "content": "x" * 50_000_000}]}
    try:
        status, answer, _ = post(f"{stack.url}/v1/chat/completions", body)
    except (BrokenPipeError, ConnectionResetError, urllib.request.URLError):  # refused while still sending
        return
    assert status == 413
    assert answer["error"]["code"] == "body_too_large"


def test_unknown_routes_and_methods(stack: RunningStack) -> None:
    assert post(f"{stack.url}/v1/nothing", {})[0] == 404
    assert post(f"{stack.url}/v1/models", {})[0] == 405
    for path in ("/invocations", "/pause", "/v1/../metrics/x", "/tokenize"):
        status, answer, _ = post(stack.url + path, {})
        assert status in (404, 405)
        assert answer["error"]["code"] in ("route_not_found", "method_not_allowed")


def test_the_engines_lived_through_all_of_it(stack: RunningStack, client: OpenAI) -> None:
    assert {p["status"]["restarts"] for p in stack.placements.values()} == {0}
    assert client.chat.completions.create(model=LLM, messages=[{"role": "user", "content": "hi"}], max_tokens=4).choices
