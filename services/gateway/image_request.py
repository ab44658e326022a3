"""A request for images, read and made definite: which size, how many, how many steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from services.gateway import image_upload
from services.gateway.body import parse_object
from services.gateway.fields import check_fields
from services.gateway.image_fields import EDIT, IMAGE
from services.gateway.image_form import is_form, read_form
from services.gateway.scheduler import Need
from services.sizing.types import ImageGeometry
from services.wire.errors import InvalidValue
from services.wire.images import fitted_px

SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.ASCII)
LEAST_MULTIPLE_PX = 8  # a latent diffusion VAE works on blocks of 8 x 8 pixels


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """`size_px` None: auto, the model's native size, or the size of the picture that an edit starts from (`own_px`). `model` None: the only
    image model there is."""

    route: Literal["/v1/images/generations", "/v1/images/edits"]
    body: dict[str, Any]
    model: str | None
    size_px: tuple[int, int] | None
    n: int
    steps: int | None
    response_format: Literal["b64_json", "url"] | None
    dropped: tuple[str, ...]
    own_px: tuple[int, int] | None = None
    priority: int = 0

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    def for_engine(self, model_id: str, size_px: tuple[int, int] | None) -> bytes:
        """The body that the engine gets: checked fields, the size in numbers, always the picture itself. The size of an edit that names
        none is left to the engine, which fits the picture into the same limits once it knows which side is up."""
        body = {name: value for name, value in self.body.items() if name not in self.dropped and value is not None}
        body |= {"model": model_id, "response_format": "b64_json"}
        body.pop("size", None)
        if size_px is not None and (self.size_px is not None or self.own_px is None):
            body["size"] = f"{size_px[0]}x{size_px[1]}"
        return orjson.dumps(body)


def read_image_request(raw: bytes) -> ImageRequest:
    """Parses and checks what does not depend on the model. Raises InvalidValue with param."""
    body = parse_object(raw)
    dropped = check_fields(body, IMAGE)
    return _request("/v1/images/generations", body, dropped, None)


def read_edit_request(raw: bytes, content_type: str) -> ImageRequest:
    """The same of an edit: a form with files, or JSON with the pictures in it. Raises InvalidValue with param."""
    if is_form(content_type):
        form = read_form(raw, content_type)
        body, upload = form.fields, image_upload.from_form(form)
    elif content_type.lower().startswith("application/x-www-form-urlencoded"):
        raise InvalidValue("image is required, as a file of a multipart/form-data form or as a data URL in JSON.", param="image")
    else:
        body = parse_object(raw)
        upload = image_upload.from_json(body)
    dropped = check_fields(body, EDIT)
    return _request("/v1/images/edits", body | upload.body, dropped, (upload.width_px, upload.height_px))


def _request(
    route: Literal["/v1/images/generations", "/v1/images/edits"], body: dict[str, Any], dropped: tuple[str, ...],
    own_px: tuple[int, int] | None,
) -> ImageRequest:
    """What hangs together: a prompt is there, a stream carries its pictures itself, unfinished ones are of one image."""
    if body.get("prompt") is None:
        raise InvalidValue("prompt is required.", param="prompt")
    if body.get("stream") and body.get("response_format") == "url":
        raise InvalidValue("response_format must be b64_json in a stream: its events carry the pictures.", param="response_format")
    n, size, priority = body.get("n") or 1, body.get("size"), body.pop("priority", None) or 0
    if body.get("partial_images") and n > 1:
        raise InvalidValue("partial_images are sent of one image only; leave n out.", param="partial_images")
    size_px = None if size in (None, "auto") else _size(size)
    given = body.get("response_format")
    return ImageRequest(route, body, body.get("model"), size_px, n, body.get("steps"), given, dropped, own_px, priority)


def definite_size(request: ImageRequest, geometry: ImageGeometry | None, largest: Need | None) -> tuple[int, int] | None:
    """The size in pixels: as asked, else that of the picture that an edit starts from or the model's native square, cut to the largest
    that is held. None: the engine's own default.

    Raises InvalidValue when a side is no multiple of what the pipeline needs.
    """
    if request.size_px is not None:
        step = geometry.multiple_px if geometry else LEAST_MULTIPLE_PX
        if any(side % step or side < step for side in request.size_px):
            raise InvalidValue(f"size must have sides that are multiples of {step} pixels, at least {step}.", param="size")
        return request.size_px
    if geometry is None:
        return None
    step = geometry.multiple_px
    if request.own_px is not None:
        most_px = (largest.width_px, largest.height_px) if largest else request.own_px
        return fitted_px(*request.own_px, *most_px, step)
    if largest is None:
        return geometry.native_px, geometry.native_px
    return (min(geometry.native_px, largest.width_px) // step * step, min(geometry.native_px, largest.height_px) // step * step)


def _size(value: str) -> tuple[int, int]:
    match = SIZE.fullmatch(value)
    if match is None:
        raise InvalidValue("size must be WIDTHxHEIGHT in pixels, like 512x512, or auto.", param="size")
    return int(match[1]), int(match[2])
