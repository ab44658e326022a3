"""From a request body to an ImageJob, or to one sentence that says what is wrong with it.

The gateway has checked the same before; this is the second line, for a gateway that is wrong or is not there.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.diffusion.contract import ImageJob
from services.diffusion.settings import MAX_GUIDANCE_SCALE, MAX_IMAGES, SEED_VALUES, Settings
from services.wire.errors import ImageTooLarge, InvalidValue, ModelNotFound

SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.ASCII)


class GenerationRequest(BaseModel):
    """`POST /v1/images/generations`: OpenAI's fields and the four that a Stable Diffusion pipeline adds.

    Fields of OpenAI's own models that have one meaning here are accepted with that value only; `user`, `quality`, `style` and
    `moderation` change nothing and are let through, because SDKs send them. Any other name is an error: a misspelt field that is
    silently ignored costs its sender an afternoon.
    """

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    prompt: Annotated[str, Field(min_length=1)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    size: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=SEED_VALUES)] | None = None
    negative_prompt: str | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)] | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    background: Literal["auto", "opaque"] | None = None
    stream: Literal[False] | None = None
    user: str | None = None
    quality: str | None = None
    style: str | None = None
    moderation: str | None = None


def job_from(body: bytes, settings: Settings) -> ImageJob:
    """The job that `body` (JSON) asks for. Raises InvalidValue, ImageTooLarge or ModelNotFound."""
    try:
        asked = GenerationRequest.model_validate_json(body)
    except ValidationError as error:
        raise _sentence(error) from None
    _check_model(asked.model, settings)
    for name, text in (("prompt", asked.prompt), ("negative_prompt", asked.negative_prompt or "")):
        if len(text) > settings.max_prompt_chars:
            raise InvalidValue(f"'{name}' has {len(text):,} characters; at most {settings.max_prompt_chars:,} are allowed.", param=name)
    steps = settings.default_steps if asked.steps is None else asked.steps
    if steps > settings.max_steps:
        raise InvalidValue(f"'steps' must be from 1 to {settings.max_steps}, not {steps:,}.", param="steps")
    width_px, height_px = _size_px(asked.size, settings)
    first_seed = secrets.randbelow(SEED_VALUES) if asked.seed is None else asked.seed
    return ImageJob(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        width_px=width_px,
        height_px=height_px,
        steps=steps,
        guidance_scale=settings.default_guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
        seeds=tuple((first_seed + i) % SEED_VALUES for i in range(asked.n or 1)),
    )


def _check_model(model: str | None, settings: Settings) -> None:
    if model is not None and model not in (settings.model_id, *settings.aliases):
        raise ModelNotFound(f"The model '{model[:200]}' is not served here; this engine serves '{settings.model_id}'.", param="model")


def _size_px(size: str | None, settings: Settings) -> tuple[int, int]:
    """1. no size, or auto -> the default.  2. not WxH -> refused.  3. a side that is 0 or no multiple -> refused.
    4. a side over its limit -> ImageTooLarge, which names the largest.  5. otherwise what was asked for.
    """
    # 1.
    if size is None or size == "auto":
        return settings.default_size_px()
    # 2.
    largest = f"{settings.max_width_px}x{settings.max_height_px}"
    match = SIZE.fullmatch(size)
    if match is None:
        raise InvalidValue(f"'size' must be WIDTHxHEIGHT in pixels, such as {largest}, not {size[:40]!r}.", param="size")
    # 3.
    width_px, height_px = int(match[1]), int(match[2])
    step = settings.multiple_px
    if width_px < step or height_px < step or width_px % step or height_px % step:
        raise InvalidValue(f"'size' must have sides that are multiples of {step} pixels, at least {step}; {size} has not.", param="size")
    # 4.
    if width_px > settings.max_width_px or height_px > settings.max_height_px:
        raise ImageTooLarge(
            f"{size} is larger than this placement of '{settings.model_id}' can hold; the largest image is {largest}.", param="size"
        )
    # 5.
    return width_px, height_px


def _sentence(error: ValidationError) -> InvalidValue:
    """The first thing that is wrong, as people say it. The value itself is left out: it may be a prompt."""
    first = error.errors(include_url=False, include_context=True, include_input=False)[0]
    where = [str(part) for part in first["loc"]]
    param = where[0] if where else None
    if first["type"] == "json_invalid":
        return InvalidValue(f"The body is not valid JSON: {first['ctx']['error']}.")
    if param is None:
        return InvalidValue("The body must be a JSON object, such as {\"prompt\": \"a photo of the digit seven\"}.")
    if first["type"] == "extra_forbidden":
        fields = ", ".join(GenerationRequest.model_fields)
        return InvalidValue(f"Unknown field '{param[:80]}'. The fields are: {fields}.", param=param[:80])
    if first["type"] == "missing":
        return InvalidValue(f"'{param}' is missing.", param=param)
    return InvalidValue(f"'{param}' {_complaint(first)}.", param=param)


def _complaint(first: Any) -> str:
    text = str(first["msg"])
    return text.removeprefix("Input ").removeprefix("String ") if text.startswith(("Input ", "String ")) else f"is wrong: {text}"
