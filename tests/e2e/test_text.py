"""Chat and completions on a real LLM engine through the gateway, with the unmodified SDK."""

from __future__ import annotations

import json

import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import IMAGE, LLM
from tests.e2e.stack import RunningStack

pytestmark = pytest.mark.engine
HELLO = [{"role": "user", "content": "What is the capital of France?"}]


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=24, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 5
    assert 1 <= answer.usage.completion_tokens <= 24
    assert answer.model == LLM


def test_chat_streamed_with_usage(client: OpenAI) -> None:
    plain = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=16, temperature=0, seed=1)
    chunks = list(client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=16, temperature=0, seed=1, stream=True,
                                                 stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_stream_without_asking_for_usage_gets_none(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=8, stream=True))
    assert all(c.choices for c in chunks)
    assert all(c.usage is None for c in chunks)


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=LLM, prompt="One, two, three,", max_tokens=8, temperature=0)
    assert "four" in answer.choices[0].text
    streamed = client.completions.create(model=LLM, prompt="One, two, three,", max_tokens=8, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == answer.choices[0].text


def test_what_the_engine_knows_passes_through(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
              "required": ["city", "people"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model=LLM, messages=HELLO, max_tokens=120, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}},
    )
    parsed = json.loads(answer.choices[0].message.content)
    assert set(parsed) == {"city", "people"}
    assert isinstance(parsed["people"], int)


def test_logprobs_stop_and_seed(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3)
    assert len(answer.choices[0].logprobs.content) == answer.usage.completion_tokens
    assert all(len(t.top_logprobs) == 3 for t in answer.choices[0].logprobs.content)
    stopped = client.completions.create(model=LLM, prompt="One, two, three,", max_tokens=30, temperature=0, stop=[" six"])
    assert " six" not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"
    one, two = (client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=12, temperature=1.2, seed=7) for _ in range(2))
    assert one.choices[0].message.content == two.choices[0].message.content
    exact = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=20, extra_body={"ignore_eos": True, "min_tokens": 20})
    assert exact.usage.completion_tokens == 20


def test_tools_pass_through(client: OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}
    answer = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=120, temperature=0, tools=[tool],
                                            tool_choice={"type": "function", "function": {"name": "weather"}})
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)  # what a model of 135M parameters puts there is its own affair


def test_models(client: OpenAI) -> None:
    assert {m.id for m in client.models.list()} == {LLM, IMAGE}
    assert client.models.retrieve(LLM).id == LLM


def test_prompt_longer_than_the_context(client: OpenAI, stack: RunningStack) -> None:
    context = stack.placements[LLM]["workload"]["context_tokens"]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=LLM, messages=[{"role": "user", "content": "one two " * context}])
    assert error.value.code == "context_length_exceeded"
    assert str(context) in error.value.message
    sent = [int(w) for w in error.value.message.replace(",", "").split() if w.isdigit()]
    assert any(number > context for number in sent), error.value.message


def test_max_tokens_over_the_context(client: OpenAI, stack: RunningStack) -> None:
    context = stack.placements[LLM]["workload"]["context_tokens"]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=context)
    assert error.value.code == "context_length_exceeded"
