"""Every body becomes a job that the settings admit, or one sentence with the field's name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.diffusion.settings import Settings
from services.diffusion.validation import generation_from
from services.wire.errors import ImageTooLarge, InvalidValue, ModelNotFound
from services.wire.images import SEED_VALUES
from tests.diffusion.conftest import ABLE, SETTINGS


def job_from(body: bytes, settings: Settings):
    return generation_from(body, settings, ABLE)[0]


def job(**fields: Any):
    return job_from(json.dumps({"prompt": "seven", **fields}).encode(), SETTINGS)


def test_defaults_come_from_the_settings() -> None:
    made = job()
    assert (made.width_px, made.height_px, made.steps, made.guidance_scale) == (32, 32, 20, 3.0)
    assert made.negative_prompt is None
    assert len(made.seeds) == 1
    assert 0 <= made.seeds[0] < SEED_VALUES


def test_without_a_seed_each_request_draws_another() -> None:
    assert len({job().seeds for _ in range(8)}) > 1


def test_every_field_arrives() -> None:
    made = job(model="digits", n=3, size="64x48", steps=7, seed=5, negative_prompt="blurry", guidance_scale=0, response_format="b64_json",
               user="u", quality="standard", output_format="png", stream=False)
    assert (made.width_px, made.height_px, made.steps, made.guidance_scale, made.seeds) == (64, 48, 7, 0.0, (5, 6, 7))
    assert made.negative_prompt == "blurry"


def test_seeds_go_round() -> None:
    assert job(n=3, seed=SEED_VALUES - 2).seeds == (SEED_VALUES - 2, SEED_VALUES - 1, 0)


@pytest.mark.parametrize(("native", "limits", "expected"), [(512, (64, 48), (64, 48)), (32, (64, 48), (32, 32)), (20, (64, 48), (16, 16))])
def test_the_default_size_is_native_cut_to_the_limits(native: int, limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert replace(SETTINGS, native_px=native, max_width_px=limits[0], max_height_px=limits[1]).default_size_px() == expected


@pytest.mark.parametrize(("field", "value"), [
    ("prompt", ""), ("prompt", 7), ("prompt", None), ("prompt", ["a"]), ("prompt", "x" * 4001), ("negative_prompt", "x" * 4001),
    ("negative_prompt", 1), ("n", 0), ("n", -1), ("n", 11), ("n", "2"), ("n", True), ("n", 1.5), ("n", 10**30),
    ("size", "0x0"), ("size", "33x32"), ("size", "32"), ("size", "32x"), ("size", "-8x8"), ("size", "32X32"), ("size", "32x32x32"),
    ("size", "٣٢x٣٢"), ("size", "1e3x8"), ("size", 32), ("size", "8" * 5000), ("size", " 32x32"), ("size", "32x32\n"),
    ("steps", 0), ("steps", -1), ("steps", 51), ("steps", 10**6), ("steps", 2.0), ("steps", "4"),
    ("seed", -1), ("seed", 2**32), ("seed", 10**40), ("seed", 1.0), ("seed", "1"), ("seed", False),
    ("guidance_scale", -0.1), ("guidance_scale", 51), ("guidance_scale", "NaN"), ("guidance_scale", float("nan")),
    ("guidance_scale", float("inf")), ("guidance_scale", [3]), ("response_format", "url"), ("response_format", 1),
    ("output_format", "gif"), ("background", "transparent"), ("stream", 1), ("output_compression", 101), ("partial_images", 4),
    ("scheduler", "euler2"), ("scheduler", "../x"), ("lora", "fat"), ("lora", "/etc/passwd"), ("lora_scale", 3), ("strength", 0.5),
    ("prompt_embeds", "AAAA"), ("lora_path", "/etc"),
    ("api_base", "http://elsewhere"), ("guidence_scale", 3), ("__proto__", 1),
])
def test_a_bad_value_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as error:
        job(**{field: value})
    assert error.value.param == field
    assert error.value.code == "invalid_value"
    assert 10 < len(error.value.message) < 500


def test_a_huge_number_is_refused_whatever_its_notation() -> None:
    for text in ("1e999", "-1e999", "9" * 5000):
        with pytest.raises(InvalidValue):
            job_from(b'{"prompt": "p", "guidance_scale": %s}' % text.encode(), SETTINGS)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"x"', b"7", b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 50_000,
                                  b'{"prompt": "a",}'])
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    with pytest.raises(InvalidValue):
        job_from(body, SETTINGS)


def test_too_large_says_the_largest() -> None:
    for size in ("72x48", "64x56", "8192x8192", "48x64"):
        with pytest.raises(ImageTooLarge) as error:
            job(size=size)
        assert (error.value.code, error.value.param) == ("image_too_large", "size")
        assert "64x48" in error.value.message


def test_another_model_is_not_served_here() -> None:
    with pytest.raises(ModelNotFound) as error:
        job(model="sdxl")
    assert "digits-sd" in error.value.message


def test_neither_a_sentence_nor_a_repr_holds_the_prompt() -> None:
    with pytest.raises(InvalidValue) as error:
        job(prompt="hush" * 2000)
    assert "hush" not in error.value.message
    assert "hush" not in repr(job(prompt="hush", negative_prompt="hush"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
fields = st.sampled_from(["prompt", "model", "n", "size", "steps", "seed", "negative_prompt", "guidance_scale", "stream", "x"])


@settings(deadline=None)  # a busy machine is no fault of the reader
@given(st.dictionaries(fields, json_values, max_size=5))
def test_whatever_comes_is_a_job_within_the_limits_or_an_error_of_ours(body: dict[str, Any]) -> None:
    try:
        made = job_from(json.dumps(body).encode(), SETTINGS)
    except (InvalidValue, ModelNotFound):
        return
    assert 8 <= made.width_px <= 64
    assert 8 <= made.height_px <= 48
    assert 1 <= made.steps <= 50
    assert 1 <= len(made.seeds) <= 10
    assert 0 <= made.guidance_scale <= 50
