"""The pictures of an edit: from data URLs to pixels of the job's size."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from PIL import Image

from services.diffusion import picture
from services.diffusion.contract import Edit
from services.wire.errors import InvalidValue
from services.wire.images import NotAPicture

DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sources:
    """The picture (RGB or RGBA) and its mask, as they came."""

    image: Image.Image
    mask: Image.Image | None

    @property
    def transparent(self) -> bool:
        """Whether any pixel of the picture is see-through."""
        return self.image.mode == "RGBA" and any(self.image.getchannel("A").histogram()[:128])

    def edit(self, size_px: tuple[int, int], mask: Image.Image | None, strength: float) -> Edit:
        """At the job's size. Raises InvalidValue for a mask that marks nothing."""
        if mask is None:
            return Edit(picture.opaque(self.image, size_px), None, strength)
        marked = picture.repainted(mask, size_px)
        if marked.getbbox() is None:
            raise InvalidValue(
                "'mask' marks nothing: what is transparent in it (or white, where it has no transparency) is painted anew.", param="mask"
            )
        return Edit(picture.opaque(self.image, size_px), marked, strength)


def sources(image_url: str, mask_url: str | None) -> Sources:
    """Raises InvalidValue with param image or mask."""
    image = _decoded("image", image_url)
    mask = None if mask_url is None else _decoded("mask", mask_url)
    if mask is not None and mask.size != image.size:
        raise InvalidValue(
            f"'mask' is {mask.width} x {mask.height} pixels, 'image' {image.width} x {image.height}; they must be the same.", param="mask"
        )
    return Sources(image, mask)


def _decoded(name: str, url: str) -> Image.Image:
    head = DATA_URL.match(url)
    if head is None:
        raise InvalidValue(f"'{name}' must hold the picture itself, as data:image/png;base64,... (png, jpeg or webp); nothing is fetched.",
                           param=name)  # fmt: skip
    try:
        return picture.decode(base64.b64decode(url[head.end() :], validate=True))
    except binascii.Error:
        raise InvalidValue(f"'{name}' is not valid base64.", param=name) from None
    except NotAPicture as error:
        raise InvalidValue(f"'{name}' {error}.", param=name) from None
