"""The fake engine keeps to the shapes that the real ones have: the openai SDK is the judge."""

from __future__ import annotations

import base64
import time

import openai
import pytest

from tests.fakes import process
from tests.fakes.process import FakeEngineProcess

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    token = tmp_path_factory.mktemp("fake") / "token"
    token.write_text("s3cret")
    running = process.start("tiny", token_file=token, context=64)
    yield running
    running.stop()


@pytest.fixture
def client(engine: FakeEngineProcess):
    engine.reset()
    with openai.OpenAI(base_url=engine.url + "/v1", api_key="s3cret", max_retries=0) as sdk:
        yield sdk


def test_chat_whole_and_streamed_agree(client):
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=5)
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=5, stream=True, stream_options=options))
    assert whole.usage.model_dump(include={"prompt_tokens", "completion_tokens"}) == {"prompt_tokens": 7, "completion_tokens": 5}
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content == "w0 w1 w2 w3 w4"
    assert chunks[-1].usage.completion_tokens == 5


def test_completions_images_models(client):
    assert client.completions.create(model="tiny", prompt="a b", max_tokens=2).choices[0].text == "w0 w1"
    image = client.images.generate(model="tiny", prompt="x", size="16x8", extra_body={"seed": 3})
    assert base64.b64decode(image.data[0].b64_json).startswith(b"\x89PNG")
    assert [m.id for m in client.models.list()] == ["tiny"]


def test_refusals(client, engine):
    with pytest.raises(openai.BadRequestError, match="maximum context length is 64"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=100)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    engine.fault("error_500", times=1)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert client.chat.completions.create(model="tiny", messages=MESSAGES).choices


def test_faults_of_a_stream(client, engine):
    def words() -> int:
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=9, stream=True)
        return sum(1 for c in stream if c.choices and c.choices[0].delta.content)

    engine.fault("die_mid_stream", after_tokens=4, times=1)
    with pytest.raises(openai.APIConnectionError):
        words()
    engine.fault("eof_without_done", after_tokens=4, times=1)
    assert words() == 4
    engine.fault("done_only", times=1)
    assert words() == 0
    assert words() == 9


def test_client_that_leaves_is_counted(client, engine):
    engine.set(itl_s=0.02)
    stream = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=50, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 2
    while engine.state()["aborted"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert engine.state()["running"] == 0
