"""Which fields an image request may have: OpenAI's, and those that Stable Diffusion adds. The limits are the engine's (wire.images)."""

from __future__ import annotations

import re
from typing import Any

from services.gateway.checks import Check, boolean, integer, number, one_of, text
from services.gateway.fields import MAX_PRIORITY
from services.wire.errors import InvalidValue
from services.wire.images import (
    FORMATS,
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_LORA_SCALE,
    MAX_PARTIAL_IMAGES,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    SCHEDULERS,
    SEED_VALUES,
)

LORA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _lora(name: str, value: Any) -> None:
    """A name from the list that the engine serves; what looks like a path or an address is none."""
    if not isinstance(value, str) or LORA.fullmatch(value) is None:
        raise InvalidValue(
            f"{name} must be the name of an adapter that is served here; the files are the operator's choice.", param=name
        )


# image_upload.py looks into them.
_PICTURE = {"type": "object", "required": ["image_url"], "properties": {"image_url": {
    "type": "string", "description": "The picture itself as a data URL: data:image/png;base64,... (or jpeg, webp)."}}}

IMAGE: dict[str, Check] = {
    "model": text(256, empty=False),
    "prompt": text(MAX_PROMPT_CHARS, empty=False),
    "negative_prompt": text(MAX_PROMPT_CHARS),
    "n": integer(1, MAX_IMAGES),
    "size": Check(text(32, empty=False).test, {"type": "string", "pattern": "^([0-9]{1,6}x[0-9]{1,6}|auto)$"}),
    "response_format": one_of("b64_json", "url"),
    "output_format": one_of(*FORMATS),
    "output_compression": integer(0, 100),
    "stream": boolean,
    "partial_images": integer(0, MAX_PARTIAL_IMAGES),
    "steps": integer(1, MAX_STEPS),
    "seed": integer(0, SEED_VALUES - 1),
    "guidance_scale": number(0, MAX_GUIDANCE_SCALE),
    "scheduler": one_of(*SCHEDULERS),
    "lora": Check(_lora, {"type": "string", "pattern": f"^{LORA.pattern}$"}),
    "lora_scale": number(0, MAX_LORA_SCALE),
    "user": text(1000),
    "priority": integer(0, MAX_PRIORITY),
}
EDIT: dict[str, Check] = IMAGE | {
    "images": Check(lambda name, value: None, {"type": "array", "items": _PICTURE, "minItems": 1, "maxItems": 1}),
    "mask": Check(lambda name, value: None, _PICTURE),
    "strength": number(0, 1, above=True),
}
# What a form, which knows text only, means by it.
WHOLE_NUMBERS = ("n", "output_compression", "partial_images", "steps", "seed", "priority")
NUMBERS = ("guidance_scale", "lora_scale", "strength")
TRUE_OR_FALSE = ("stream",)
