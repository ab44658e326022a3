"""Out: the pixels come back, the bytes repeat, and there is nothing beside the pixels. In: only what is a picture, upright, and bounded."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from services.diffusion.picture import decode, encode, opaque, repainted
from services.wire.images import NotAPicture, format_of


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


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_jpeg_and_webp_have_the_quality_that_was_asked_for(kind: str) -> None:
    """A smooth picture, since noise is nothing that these were made for."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3))
    fine, coarse = encode(ramp, kind, 95), encode(ramp, kind, 5)  # type: ignore[arg-type]
    assert (format_of(fine), len(coarse) < len(fine)) == (kind, True)
    off = [np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - ramp).mean() for data in (fine, coarse)]
    assert off[0] < 2 < 20
    assert off[0] < off[1]


def file(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **more)  # type: ignore[arg-type]
    return target.getvalue()


def test_a_photograph_stands_upright() -> None:
    photo = Image.new("RGB", (20, 10), "red")
    exif = photo.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode(file(photo, "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize(("mode", "expected"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("LA", "RGBA"), ("L", "RGB"), ("P", "RGB"), ("1", "RGB"),
                                                ("I;16", "RGB")])
def test_every_mode_becomes_rgb_or_rgba(mode: str, expected: str) -> None:
    assert decode(file(Image.new(mode, (8, 8)))).mode == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_file_is_refused(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = file(Image.fromarray(pixels), kind)
    assert decode(whole).size == (64, 64)
    for length in (0, 11, 40, len(whole) // 2):
        with pytest.raises(NotAPicture):
            decode(whole[:length])


def test_a_file_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(file(Image.new("RGB", (64, 64))))
    data[16:20] = (65).to_bytes(4, "big")
    with pytest.raises(NotAPicture):
        decode(bytes(data))


def test_what_a_mask_marks() -> None:
    transparent = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    transparent.paste((0, 0, 0, 0), (8, 0, 16, 16))
    white = Image.new("RGB", (16, 16), "black")
    white.paste("white", (8, 0, 16, 16))
    for mask in (transparent, white):
        marked = np.asarray(repainted(mask, (16, 16)))
        assert (marked[:, 8:] == 255).all()
        assert (marked[:, :8] == 0).all()
    assert opaque(transparent, (32, 8)).size == (32, 8)
