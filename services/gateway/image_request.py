"""A request for images, read and made definite: which size, how many, how many steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from services.gateway import fields
from services.gateway.body import parse_object
from services.gateway.scheduler import Need
from services.sizing.types import ImageGeometry
from services.wire.errors import InvalidValue

SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.ASCII)
LEAST_MULTIPLE_PX = 8  # a latent diffusion VAE works on blocks of 8 x 8 pixels


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """`size_px` None: auto, the model's native size. `model` None: the only image model there is."""

    body: dict[str, Any]
    model: str | None
    size_px: tuple[int, int] | None
    n: int
    steps: int | None
    response_format: Literal["b64_json", "url"] | None
    dropped: tuple[str, ...]

    def for_engine(self, model_id: str, size_px: tuple[int, int] | None) -> bytes:
        """The body that the engine gets: checked fields, the size in numbers, always the picture itself."""
        body = {name: value for name, value in self.body.items() if name not in self.dropped and value is not None}
        body |= {"model": model_id, "response_format": "b64_json"}
        body.pop("size", None)
        if size_px is not None:
            body["size"] = f"{size_px[0]}x{size_px[1]}"
        return orjson.dumps(body)


def read_image_request(raw: bytes) -> ImageRequest:
    """Parses and checks what does not depend on the model. Raises InvalidValue with param."""
    body = parse_object(raw)
    if body.get("prompt") is None:
        raise InvalidValue("prompt is required.", param="prompt")
    if body.get("stream"):
        raise InvalidValue("stream must be false; images come whole.", param="stream")
    dropped = fields.check_fields(body, fields.IMAGE)
    size = body.get("size")
    return ImageRequest(
        body, body.get("model"), None if size in (None, "auto") else _size(size), body.get("n") or 1, body.get("steps"),
        body.get("response_format"), dropped,
    )


def definite_size(request: ImageRequest, geometry: ImageGeometry | None, largest: Need | None) -> tuple[int, int] | None:
    """The size in pixels: as asked, else the model's native square, cut to the largest that is held. None: the engine's own default.

    Raises InvalidValue when a side is no multiple of what the pipeline needs.
    """
    if request.size_px is not None:
        step = geometry.multiple_px if geometry else LEAST_MULTIPLE_PX
        if any(side % step or side < step for side in request.size_px):
            raise InvalidValue(f"size must have sides that are multiples of {step} pixels, at least {step}.", param="size")
        return request.size_px
    if geometry is None:
        return None
    if largest is None:
        return geometry.native_px, geometry.native_px
    step = geometry.multiple_px
    return (min(geometry.native_px, largest.width_px) // step * step, min(geometry.native_px, largest.height_px) // step * step)


def _size(value: str) -> tuple[int, int]:
    match = SIZE.fullmatch(value)
    if match is None:
        raise InvalidValue("size must be WIDTHxHEIGHT in pixels, like 512x512, or auto.", param="size")
    return int(match[1]), int(match[2])
