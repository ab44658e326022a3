"""Heads of pictures, against the library that writes them, and against everything that is none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.wire.images import MAX_UPLOAD_BYTES, NotAPicture, PictureHead, fitted_px, format_of, read_head


def saved(kind: str, width_px: int = 37, height_px: int = 21, mode: str = "RGB", **more: object) -> bytes:
    target = io.BytesIO()
    Image.new(mode, (width_px, height_px)).save(target, kind, **more)  # type: ignore[arg-type]
    return target.getvalue()


@pytest.mark.parametrize(("kind", "mode", "more"), [
    ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "L", {}), ("PNG", "P", {}),
    ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}),
    ("JPEG", "RGB", {"comment": b"x" * 5000}), ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True}), ("WEBP", "RGBA", {}),
    ("WEBP", "RGB", {"exif": b"Exif\0\0"}),
])
def test_what_pillow_writes(kind: str, mode: str, more: dict[str, object]) -> None:
    for width_px, height_px in ((1, 1), (37, 21), (4096, 3)):
        data = saved(kind, width_px, height_px, mode, **more)
        assert read_head(data) == PictureHead(kind.lower(), width_px, height_px)  # type: ignore[arg-type]
        assert format_of(data[:12]) == kind.lower()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "JPEG2000", "PPM"])
def test_other_formats_are_not_taken(kind: str) -> None:
    with pytest.raises(NotAPicture, match="no PNG, JPEG or WebP"):
        read_head(saved(kind, 32, 32))


def test_a_bomb_is_seen_in_its_head() -> None:
    data = bytearray(saved("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(NotAPicture, match="60000 x 60000"):
        read_head(bytes(data))
    data[16:20] = bytes(4)
    with pytest.raises(NotAPicture, match="0 pixels"):
        read_head(bytes(data))


def test_too_many_bytes() -> None:
    with pytest.raises(NotAPicture, match="8,388,608"):
        read_head(saved("PNG") + bytes(MAX_UPLOAD_BYTES))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_cut_head_is_refused_or_right(kind: str) -> None:
    whole = saved(kind)
    for length in range(min(len(whole), 700)):
        try:
            head = read_head(whole[:length])
        except NotAPicture:
            continue
        assert (head.width_px, head.height_px) == (37, 21)


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b""]), st.binary(max_size=200))
def test_no_bytes_break_it(start: bytes, rest: bytes) -> None:
    try:
        head = read_head(start + rest)
    except NotAPicture:
        return
    assert head.width_px > 0


def test_fitted() -> None:
    assert fitted_px(1000, 750, 512, 512, 8) == (512, 384)
    assert fitted_px(500, 300, 512, 512, 8) == (496, 296)
    assert fitted_px(4000, 10, 512, 512, 8) == (512, 8)
    assert fitted_px(512, 512, 512, 512, 16) == (512, 512)
    assert fitted_px(3, 3, 512, 512, 8) == (8, 8)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(8, 300), st.integers(8, 300))
def test_fitted_is_always_admitted(width_px: int, height_px: int, most_width_px: int, most_height_px: int) -> None:
    width, height = fitted_px(width_px, height_px, most_width_px, most_height_px, 8)
    assert 8 <= width <= most_width_px
    assert 8 <= height <= most_height_px
    assert width % 8 == height % 8 == 0
