"""Pictures in and out: files of a request become pixels, pixels become a file. Nothing but pixels: no text chunk, no time, no prompt."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from services.wire.images import Format, NotAPicture, read_head

DECODERS = ("PNG", "JPEG", "WEBP")  # Pillow has fifty; each that is off is one less to be attacked through


def encode(pixels: Any, kind: Format = "png", quality: int = 100) -> bytes:
    """The file of an array (height, width, 3) of uint8. The same pixels give the same bytes. `quality` (0 to 100) is JPEG's and WebP's."""
    target = io.BytesIO()
    more: dict[str, Any] = {} if kind == "png" else {"quality": quality}
    Image.fromarray(pixels).save(target, format=kind.upper(), **more)
    return target.getvalue()


def decode(data: bytes) -> Image.Image:
    """The first frame, upright, as RGB or (where it has transparency) RGBA. Raises NotAPicture.

    The size is known and bounded before a decoder sees the bytes, and what the decoder says must agree.
    """
    head = read_head(data)
    try:
        with Image.open(io.BytesIO(data), formats=DECODERS) as opened:
            if opened.size != (head.width_px, head.height_px):
                raise NotAPicture(f"is a {head.format.upper()} file that contradicts itself about its size")
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, NotAPicture):
            raise
        raise NotAPicture(f"is a {head.format.upper()} file that is cut or broken") from None
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def opaque(image: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """RGB of (width, height) pixels. What was transparent keeps the colour under it."""
    return image.convert("RGB").resize(size_px, Image.Resampling.LANCZOS)


def repainted(mask: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """What is to be painted anew, white on black (mode L): the transparent part of a mask that has transparency, as OpenAI's API says it;
    the white part of one that has none, as Stable Diffusion's tools do."""
    alpha = ImageOps.invert(mask.getchannel("A")) if mask.mode == "RGBA" else mask.convert("L")
    return alpha.resize(size_px, Image.Resampling.BILINEAR).point(lambda level: 255 if level >= 128 else 0)
