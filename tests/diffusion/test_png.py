"""PNG: the pixels come back, the bytes repeat, and there is nothing beside the pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from services.diffusion.png import encode


def chunks(png: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(png):
        found.append(png[at + 4 : at + 8])
        at += 12 + struct.unpack(">I", png[at : at + 4])[0]
    return found


def test_pixels_and_only_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    made = encode(pixels)
    assert made == encode(pixels)
    assert set(chunks(made)) == {b"IHDR", b"IDAT", b"IEND"}
    image = Image.open(io.BytesIO(made))
    assert (image.mode, image.size) == ("RGB", (24, 16))
    assert (np.asarray(image) == pixels).all()
