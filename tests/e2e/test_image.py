"""Image generation on a real diffusers pipeline through the gateway."""

from __future__ import annotations

import base64
import io
import urllib.request

import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.e2e.conftest import IMAGE
from tests.models.digit_judge import DigitJudge

pytestmark = pytest.mark.engine
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def decode(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_a_hundred_digits_are_what_was_asked_for(client: OpenAI) -> None:
    judge, right = DigitJudge.from_real_digits(), 0
    for digit, word in enumerate(WORDS):
        answer = client.images.generate(model=IMAGE, prompt=f"a photo of the digit {word}", n=10, extra_body={"seed": 1000 * digit})
        assert len(answer.data) == 10
        right += sum(int(seen) == digit for seen in judge.read([decode(d.b64_json) for d in answer.data]))
    assert right >= 90, f"{right} of 100 images show the digit that was asked for"


def test_same_seed_same_image(client: OpenAI) -> None:
    ask = {"model": IMAGE, "prompt": "a photo of the digit four", "extra_body": {"seed": 5, "steps": 8}}
    one, two = (client.images.generate(**ask).data[0].b64_json for _ in range(2))
    assert one == two
    other = client.images.generate(model=IMAGE, prompt="a photo of the digit four", extra_body={"seed": 6, "steps": 8}).data[0].b64_json
    assert other != one


def test_url_answers_fetch_the_same_image(client: OpenAI) -> None:
    ask = {"model": IMAGE, "prompt": "a photo of the digit two", "extra_body": {"seed": 3, "steps": 6}}
    url = client.images.generate(**ask, response_format="url").data[0].url
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        fetched = answer.read()
    assert base64.b64encode(fetched).decode() == client.images.generate(**ask, response_format="b64_json").data[0].b64_json


def test_extra_fields_change_the_image(client: OpenAI) -> None:
    def made(**extra: object) -> str:
        return client.images.generate(model=IMAGE, prompt="a photo of the digit three", extra_body={"seed": 9, **extra}).data[0].b64_json

    plain = made()
    assert made(guidance_scale=1.5) != plain
    assert made(negative_prompt="a photo of the digit three") != plain
    assert made(steps=5) != plain


def test_size_is_obeyed(client: OpenAI) -> None:
    answer = client.images.generate(model=IMAGE, prompt="a photo of the digit one", size="64x32", extra_body={"steps": 4})
    assert decode(answer.data[0].b64_json).size == (64, 32)


def test_an_image_larger_than_the_card_can_hold(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(model=IMAGE, prompt="a photo of the digit one", size="8192x8192")
    assert error.value.code == "image_too_large"
    assert "largest" in error.value.message


@pytest.mark.parametrize("bad", [{"size": "0x0"}, {"size": "33x32"}, {"n": 0}, {"n": 1000}, {"extra_body": {"steps": 0}},
                                 {"extra_body": {"steps": 10**6}}, {"extra_body": {"guidance_scale": "NaN"}},
                                 {"extra_body": {"seed": -1}}, {"prompt": ""}])
def test_bad_values_name_their_parameter(client: OpenAI, bad: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(**{"model": IMAGE, "prompt": "seven", **bad})
    assert error.value.param in {"size", "n", "steps", "guidance_scale", "seed", "prompt"}


def test_chat_with_an_image_model_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=IMAGE, messages=[{"role": "user", "content": "hi"}])
    assert error.value.param == "model"
