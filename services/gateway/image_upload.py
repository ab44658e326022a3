"""The pictures of an edit: one to start from, perhaps a mask, checked by their heads. No decoder runs in the gateway."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from services.gateway.image_form import Form
from services.wire.errors import InvalidValue
from services.wire.images import NotAPicture, PictureHead, read_head

_DATA_URL = re.compile(r"data:image/[a-z]{3,4};base64,", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upload:
    """As the engine takes them: `images` and `mask` of its JSON body. `width_px` and `height_px` are the picture's."""

    body: dict[str, Any]
    width_px: int
    height_px: int


def from_form(form: Form) -> Upload:
    """Raises InvalidValue with param image or mask."""
    images = [data for kind, data in form.files if kind == "image"]
    masks = [data for kind, data in form.files if kind == "mask"]
    return _upload(images, masks)


def from_json(body: dict[str, Any]) -> Upload:
    """OpenAI's JSON form: images: [{image_url}], mask: {image_url}, the URLs holding the pictures themselves. Raises InvalidValue."""
    given, mask = body.get("images"), body.get("mask")
    if given is not None and not isinstance(given, list):
        raise InvalidValue("images must be a list of one object with image_url.", param="image")
    images = [_from_url("image", entry) for entry in given or ()]
    return _upload(images, [] if mask is None else [_from_url("mask", mask)])


def _upload(images: list[bytes], masks: list[bytes]) -> Upload:
    """1. Exactly one picture. 2. At most one mask, of its size."""
    if len(images) != 1:  # 1
        raise InvalidValue(f"image must be one picture, as PNG, JPEG or WebP; got {len(images)}.", param="image")
    head = _head("image", images[0])
    body: dict[str, Any] = {"images": [{"image_url": _to_url(head, images[0])}]}
    if len(masks) > 1:  # 2
        raise InvalidValue(f"mask must be one picture; got {len(masks)}.", param="mask")
    if masks:
        mask = _head("mask", masks[0])
        if (mask.width_px, mask.height_px) != (head.width_px, head.height_px):
            raise InvalidValue(
                f"mask is {mask.width_px} x {mask.height_px} pixels, image {head.width_px} x {head.height_px}; they must be the same.",
                param="mask",
            )
        body["mask"] = {"image_url": _to_url(mask, masks[0])}
    return Upload(body, head.width_px, head.height_px)


def _head(name: str, data: bytes) -> PictureHead:
    try:
        return read_head(data)
    except NotAPicture as error:
        raise InvalidValue(f"{name} {error}.", param=name) from None


def _to_url(head: PictureHead, data: bytes) -> str:
    return f"data:image/{head.format};base64,{base64.b64encode(data).decode('ascii')}"


def _from_url(name: str, entry: Any) -> bytes:
    url = str(entry.get("image_url")) if isinstance(entry, dict) else ""
    start = _DATA_URL.match(url)
    if start is None:
        raise InvalidValue(
            f"{name} must hold the picture itself, as {{\"image_url\": \"data:image/png;base64,...\"}}; nothing is fetched.", param=name
        )
    try:
        return base64.b64decode(url[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValue(f"{name} is not valid base64.", param=name) from None
