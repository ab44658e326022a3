"""The JSON objects of the OpenAI API that rigserve makes itself or reads from an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What an engine says it counted. Never counted by us."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What an image engine says it did. `steps` is the sum over all images of the job; seconds are None where it does not say."""

    images: int
    steps: int | None
    denoise_s: float | None = None
    vae_s: float | None = None


def model_object(model_id: str, created: int, owned_by: str, **more: Any) -> dict[str, Any]:
    """One entry of `GET /v1/models`. `created` is a unix time; `more` are our own fields beside OpenAI's."""
    return {"id": model_id, "object": "model", "created": created, "owned_by": owned_by, **more}


def listing(data: Sequence[Any]) -> dict[str, Any]:
    """OpenAI's list object."""
    return {"object": "list", "data": list(data)}


def token_usage(value: Any) -> TokenUsage | None:
    """The `usage` of a text answer or of a stream's last chunk; None when it is not one (null, half filled, negative)."""
    if not isinstance(value, dict):
        return None
    prompt, output = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens", 0))
    if prompt is None or output is None:
        return None
    details = value.get("prompt_tokens_details")
    return TokenUsage(prompt, output, _count(details.get("cached_tokens")) if isinstance(details, dict) else None)


def plain_usage(value: Any) -> TokenUsage | None:
    """The `usage` of an Anthropic message or an OpenAI response. Anthropic's input_tokens leave out what came from a cache, beside which
    it stands; OpenAI's hold it."""
    if not isinstance(value, dict):
        return None
    prompt, output = _count(value.get("input_tokens")), _count(value.get("output_tokens", 0))
    if prompt is None or output is None:
        return None
    details = value.get("input_tokens_details")
    if isinstance(details, dict):
        return TokenUsage(prompt, output, _count(details.get("cached_tokens")))
    read, made = _count(value.get("cache_read_input_tokens")), _count(value.get("cache_creation_input_tokens"))
    return TokenUsage(prompt + (read or 0) + (made or 0), output, read)


def event_usage(event: dict[str, Any], known: TokenUsage | None) -> TokenUsage | None:
    """What is known once `event` of a stream has passed: message_start tells the prompt, message_delta the output so far (perhaps with the
    prompt again), response.completed both."""
    inner = next((event[name] for name in ("message", "response") if isinstance(event.get(name), dict)), event)
    said = inner.get("usage")
    whole = plain_usage(said)
    if whole is not None and (known is None or whole.prompt_tokens):
        return whole
    output = _count(said.get("output_tokens")) if isinstance(said, dict) else None
    return known if output is None or known is None else TokenUsage(known.prompt_tokens, output, known.cached_tokens)


def image_usage(value: Any, images: int) -> ImageUsage:
    """The `usage` of an image answer. An engine that gives none made `images` images in an unknown number of steps."""
    if not isinstance(value, dict):
        return ImageUsage(images, None)
    said = _count(value.get("images"))
    denoise_s, vae_s = _seconds(value.get("denoise_s")), _seconds(value.get("vae_s"))
    return ImageUsage(images if said is None else said, _count(value.get("steps")), denoise_s, vae_s)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _seconds(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None
