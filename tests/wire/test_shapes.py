from __future__ import annotations

from typing import Any

import pytest

from services.wire.shapes import ImageUsage, TokenUsage, image_usage, token_usage


@pytest.mark.parametrize(("value", "usage"), [
    ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, TokenUsage(3, 5)),
    ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}, TokenUsage(3, 5, 2)),
    ({"prompt_tokens": 3}, TokenUsage(3, 0)),
    (None, None), ({}, None), ({"prompt_tokens": -1, "completion_tokens": 5}, None), ({"prompt_tokens": True}, None),
])
def test_token_usage(value: Any, usage: TokenUsage | None) -> None:
    assert token_usage(value) == usage


def test_image_usage() -> None:
    said = {"images": 2, "steps": 20, "denoise_s": 0.5, "vae_s": 1, "total_s": 2}
    assert image_usage(said, 2) == ImageUsage(2, 20, 0.5, 1.0)
    assert image_usage(None, 3) == ImageUsage(3, None)
    assert image_usage({"steps": -4, "denoise_s": "x"}, 1) == ImageUsage(1, None)
