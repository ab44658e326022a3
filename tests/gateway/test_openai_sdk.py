"""The unmodified openai SDK against the gateway: everything that it can do here, and the types that it raises."""

from __future__ import annotations

import base64

import openai
import pytest

from tests.gateway.rig import MESSAGES, Rig

SMOL = "smollm2-135m-instruct"


@pytest.fixture
def sdk(rig: Rig):
    with rig.gateway.sdk() as client:
        yield client


def test_chat(sdk, rig):
    answer = sdk.chat.completions.create(model=SMOL, messages=MESSAGES, max_tokens=5)
    assert answer.choices[0].message.content == "w0 w1 w2 w3 w4"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 5)
    assert answer._request_id


def test_stream_with_usage(sdk):
    stream = sdk.chat.completions.create(model=SMOL, messages=MESSAGES, max_tokens=5, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "w0 w1 w2 w3 w4"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5


def test_stream_without_usage_has_a_choice_in_every_chunk(sdk, rig):
    chunks = list(sdk.chat.completions.create(model=SMOL, messages=MESSAGES, max_tokens=5, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert rig.engines["llm-vllm"].state()["seen"][-1]["body"]["stream_options"] == {"include_usage": True}
    assert rig.gateway.last_request()["output_tokens"] == 5


def test_completions(sdk):
    assert sdk.completions.create(model=SMOL, prompt="a b c", max_tokens=3).choices[0].text == "w0 w1 w2"
    assert "".join(c.choices[0].text for c in sdk.completions.create(model=SMOL, prompt="a", max_tokens=3, stream=True)) == "w0 w1 w2"


def test_models(sdk):
    listed = {model.id: model for model in sdk.models.list()}
    assert set(listed) == {SMOL, "qwen2.5-0.5b-instruct", "digits-sd"}
    assert listed[SMOL].object == "model"
    assert listed[SMOL].max_model_len == 512
    assert sdk.models.retrieve(SMOL).id == SMOL
    assert sdk.models.retrieve("HuggingFaceTB/SmolLM2-135M-Instruct").id == SMOL
    with pytest.raises(openai.NotFoundError, match=SMOL):
        sdk.models.retrieve("a/b/c")


def test_an_alias_is_served_and_the_engine_sees_the_id(sdk, rig):
    answer = sdk.chat.completions.create(model="huggingfacetb/smollm2-135m-instruct", messages=MESSAGES, max_tokens=2)
    assert answer.model == SMOL
    assert rig.engines["llm-vllm"].state()["seen"][-1]["body"]["model"] == SMOL


def test_images(sdk, rig):
    answer = sdk.images.generate(model="digits-sd", prompt="a seven", n=2, size="32x32", response_format="b64_json",
                                 extra_body={"steps": 7, "seed": 5, "negative_prompt": "blur", "guidance_scale": 2.5})
    assert [base64.b64decode(image.b64_json)[:4] for image in answer.data] == [b"\x89PNG"] * 2
    assert [image.url for image in answer.data] == [None, None]
    seen = rig.engines["digits"].state()["seen"][-1]["body"]
    assert seen == {"model": "digits-sd", "prompt": "a seven", "n": 2, "size": "32x32", "response_format": "b64_json", "steps": 7,
                    "seed": 5, "negative_prompt": "blur", "guidance_scale": 2.5}


def test_typed_errors(sdk, rig):
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model=SMOL, messages=[])
    assert (bad.value.code, bad.value.param) == ("invalid_value", "messages")
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="nobody", messages=MESSAGES)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError) as large:
        sdk.chat.completions.create(model="qwen2.5-32b-instruct", messages=MESSAGES)
    assert large.value.code == "model_does_not_fit"
    rig.engines["llm-vllm"].fault("error_500", times=1)
    with pytest.raises(openai.InternalServerError) as failed:
        sdk.chat.completions.create(model=SMOL, messages=MESSAGES)
    assert failed.value.status_code == 502


def test_refusals_are_not_retried_by_the_sdk(rig):
    with rig.gateway.sdk(max_retries=3) as sdk, pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model=SMOL, messages=MESSAGES, max_tokens=5000)
    assert rig.engines["llm-vllm"].state()["seen"] == []


def test_error_event_raises(rig):
    rig.engines["llm-vllm"].fault("eof_without_done", times=1)
    words = []
    with rig.gateway.sdk() as sdk:
        stream = sdk.chat.completions.create(model=SMOL, messages=MESSAGES, max_tokens=9, stream=True)
        with pytest.raises(openai.APIError, match="before it was whole"):
            words.extend(chunk.choices[0].delta.content for chunk in stream)
    assert len([w for w in words if w]) == 3
