"""From a request body to an ImageJob, or to one sentence that says what is wrong with it.

The gateway has checked the same before; this is the second line, for a gateway that is wrong or is not there.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.diffusion.contract import Edit, ImageJob, Output
from services.diffusion.folder import Abilities
from services.diffusion.settings import Settings
from services.diffusion.upload import Sources, sources
from services.wire.errors import ImageTooLarge, InvalidValue, ModelNotFound
from services.wire.images import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_LORA_SCALE, MAX_PARTIAL_IMAGES, SEED_VALUES, Format, fitted_px

SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.ASCII)
STRENGTH, MASKED_STRENGTH = 0.75, 1.0  # where a request names none: how far from the picture; under a mask everything is new


class GenerationRequest(BaseModel):
    """`POST /v1/images/generations`: OpenAI's fields and those that a Stable Diffusion pipeline adds.

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
    scheduler: str | None = None
    lora: str | None = None
    lora_scale: Annotated[float, Field(ge=0, le=MAX_LORA_SCALE, allow_inf_nan=False)] | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Format | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] | None = None
    user: str | None = None
    quality: str | None = None
    style: str | None = None
    moderation: str | None = None


class Reference(BaseModel):
    """A picture of an edit, in OpenAI's JSON form. The URL holds the picture itself (data:); nothing is ever fetched."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image_url: Annotated[str, Field(min_length=1)]


class EditRequest(GenerationRequest):
    """`POST /v1/images/edits` in JSON: one picture to start from, perhaps a mask, and how far from it the result may go."""

    images: Annotated[list[Reference], Field(min_length=1, max_length=1)]
    mask: Reference | None = None
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    input_fidelity: str | None = None


Asked = TypeVar("Asked", bound=GenerationRequest)


def generation_from(body: bytes, settings: Settings, able: Abilities) -> tuple[ImageJob, bool]:
    """The job that `body` (JSON) asks for, and whether its steps are to be told. Raises InvalidValue, ImageTooLarge or ModelNotFound."""
    asked = _read(GenerationRequest, body)
    _check_model(asked.model, settings)
    size_px = _size_px(asked.size, settings) or settings.default_size_px()
    return _job(asked, settings, able, size_px, None), bool(asked.stream)


def edit_from(body: bytes, settings: Settings, able: Abilities) -> tuple[ImageJob, bool]:
    """The same of an edit. Decodes the pictures, which takes up to a second: not for the event loop.

    Without a size the result has the picture's own, cut to what is admitted.
    """
    asked = _read(EditRequest, body)
    _check_model(asked.model, settings)
    if not able.edits:
        raise InvalidValue(f"'{settings.model_id}' makes images from text only; choose one that can start from a picture.", param="image")
    if asked.mask is not None and not able.masks:
        raise InvalidValue(f"'{settings.model_id}' starts from whole pictures only; leave the mask out.", param="mask")
    given = sources(asked.images[0].image_url, asked.mask.image_url if asked.mask else None)
    own_width_px, own_height_px = given.image.size
    size_px = _size_px(asked.size, settings) or fitted_px(
        own_width_px, own_height_px, settings.max_width_px, settings.max_height_px, settings.multiple_px
    )
    return _job(asked, settings, able, size_px, _edit(asked, given, size_px)), bool(asked.stream)


def _read(kind: type[Asked], body: bytes) -> Asked:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _sentence(error, kind) from None


def _job(asked: GenerationRequest, settings: Settings, able: Abilities, size_px: tuple[int, int], edit: Edit | None) -> ImageJob:
    for name, text in (("prompt", asked.prompt), ("negative_prompt", asked.negative_prompt or "")):
        if len(text) > settings.max_prompt_chars:
            raise InvalidValue(f"'{name}' has {len(text):,} characters; at most {settings.max_prompt_chars:,} are allowed.", param=name)
    steps = settings.default_steps if asked.steps is None else asked.steps
    if steps > settings.max_steps:
        raise InvalidValue(f"'steps' must be from 1 to {settings.max_steps}, not {steps:,}.", param="steps")
    if edit is not None and int(steps * edit.strength) < 1:
        raise InvalidValue(f"'strength' {edit.strength:g} of {steps} steps leaves none; raise either.", param="strength")
    if asked.partial_images and (asked.n or 1) > 1:
        raise InvalidValue("'partial_images' are sent of one image only; leave 'n' out.", param="partial_images")
    _check_abilities(asked, settings, able)
    first_seed = secrets.randbelow(SEED_VALUES) if asked.seed is None else asked.seed
    return ImageJob(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt if able.negative_prompt else None,
        width_px=size_px[0],
        height_px=size_px[1],
        steps=steps,
        guidance_scale=settings.default_guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
        seeds=tuple((first_seed + i) % SEED_VALUES for i in range(asked.n or 1)),
        scheduler=asked.scheduler,
        lora=asked.lora,
        lora_scale=1.0 if asked.lora_scale is None else asked.lora_scale,
        edit=edit,
        output=Output(asked.output_format or "png", 100 if asked.output_compression is None else asked.output_compression,
                      asked.partial_images or 0 if asked.stream else 0),
    )  # fmt: skip


def _check_abilities(asked: GenerationRequest, settings: Settings, able: Abilities) -> None:
    """What the loaded model can't do. 1. Guidance. 2. A negative prompt. 3. Another scheduler. 4. An adapter that is not here."""
    model = f"'{settings.model_id}'"
    if able.guidance_limit is not None and (asked.guidance_scale or 0) > able.guidance_limit:  # 1
        raise InvalidValue(
            f"'guidance_scale' must be at most {able.guidance_limit:g}: {model} was made to work without guidance.", param="guidance_scale"
        )
    if asked.negative_prompt and not able.negative_prompt:  # 2
        raise InvalidValue(f"{model} reads no negative prompt; say in 'prompt' what you want instead.", param="negative_prompt")
    if asked.scheduler is not None and asked.scheduler not in able.schedulers:  # 3
        choice = f"one of {', '.join(able.schedulers)}" if able.schedulers else f"left out: {model} works with its own only"
        raise InvalidValue(f"'scheduler' must be {choice}.", param="scheduler")
    if asked.lora is not None and asked.lora not in able.loras:  # 4
        choice = f"one of {', '.join(able.loras)}" if able.loras else "left out: no adapter is served here"
        raise InvalidValue(f"'lora' must be {choice}.", param="lora")


def _edit(asked: EditRequest, given: Sources, size_px: tuple[int, int]) -> Edit:
    """1. A mask. 2. The picture's own transparency, as OpenAI's API says it. 3. The whole picture."""
    if given.mask is not None:  # 1
        strength = MASKED_STRENGTH if asked.strength is None else asked.strength
        return given.edit(size_px, given.mask, strength)
    if given.transparent:  # 2
        return given.edit(size_px, given.image, MASKED_STRENGTH if asked.strength is None else asked.strength)
    return given.edit(size_px, None, STRENGTH if asked.strength is None else asked.strength)  # 3


def _check_model(model: str | None, settings: Settings) -> None:
    if model is not None and model not in (settings.model_id, *settings.aliases):
        raise ModelNotFound(f"The model '{model[:200]}' is not served here; this engine serves '{settings.model_id}'.", param="model")


def _size_px(size: str | None, settings: Settings) -> tuple[int, int] | None:
    """1. no size, or auto -> None.  2. not WxH -> refused.  3. a side that is 0 or no multiple -> refused.
    4. a side over its limit -> ImageTooLarge, which names the largest.  5. otherwise what was asked for.
    """
    # 1.
    if size is None or size == "auto":
        return None
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


def _sentence(error: ValidationError, kind: type[GenerationRequest]) -> InvalidValue:
    """The first thing that is wrong, as people say it. The value itself is left out: it may be a prompt."""
    first = error.errors(include_url=False, include_context=True, include_input=False)[0]
    where = [str(part) for part in first["loc"]]
    param = where[0] if where else None
    if first["type"] == "json_invalid":
        return InvalidValue(f"The body is not valid JSON: {first['ctx']['error']}.")
    if param is None:
        return InvalidValue("The body must be a JSON object, such as {\"prompt\": \"a photo of the digit seven\"}.")
    if first["type"] == "extra_forbidden" and len(where) == 1:
        fields = ", ".join(kind.model_fields)
        return InvalidValue(f"Unknown field '{param[:80]}'. The fields are: {fields}.", param=param[:80])
    if first["type"] == "missing":
        return InvalidValue(f"'{param}' is missing.", param=param)
    return InvalidValue(f"'{param}' {_complaint(first)}.", param=param)


def _complaint(first: Any) -> str:
    text = str(first["msg"])
    return text.removeprefix("Input ").removeprefix("String ") if text.startswith(("Input ", "String ")) else f"is wrong: {text}"
