"""What gateway and image engine agree on about images: limits, names of schedulers, and what the head of an uploaded picture says.

A head is read without decoding anything, so that neither a bomb nor a decoder's fault can reach the process that faces the clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["png", "jpeg", "webp"]

MAX_IMAGES = 10  # of one request: the OpenAI API's own limit for `n`
MAX_PARTIAL_IMAGES = 3  # of one stream: the OpenAI API's own limit
MAX_STEPS = 150
MAX_PROMPT_CHARS = 4000
MAX_GUIDANCE_SCALE = 50.0  # far above any use; beyond it latents only saturate
MAX_LORA_SCALE = 2.0
SEED_VALUES = 2**32  # seeds are 0 .. 2**32 - 1; JSON readers keep these exact and the next seed after the last is 0
MAX_UPLOAD_BYTES = 8 * 1024 * 1024  # of one picture
MAX_UPLOAD_PX = 4096 * 4096  # decoded: 48 MiB as RGB
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")
# Names as Stable Diffusion users know them. What each one is in diffusers says services/diffusion/model/schedulers.py.
SCHEDULERS = (
    "ddim", "ddpm", "deis", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2m_sde_karras", "euler", "euler_a", "euler_karras",
    "heun", "lcm", "pndm", "unipc",
)  # fmt: skip

_PNG = b"\x89PNG\r\n\x1a\n"
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # JPEG markers C0..CF that begin no frame: Huffman tables, reserved, arithmetic coding
_ALONE = (0x01, *range(0xD0, 0xD9))  # JPEG markers without a length


class NotAPicture(ValueError):
    """The bytes are no picture that is taken. The message says why; it shows nothing of them."""


@dataclass(frozen=True, slots=True)
class PictureHead:
    """Format and size of a picture as its first bytes claim them: who decodes it must compare."""

    format: Format
    width_px: int
    height_px: int


def format_of(data: bytes) -> Format | None:
    """What the first bytes say that it is (12 are enough); None: no format that is taken."""
    if data.startswith(_PNG):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def read_head(data: bytes) -> PictureHead:
    """Format and size of a PNG, JPEG or WebP file, whole and within the limits. Raises NotAPicture.

    1. More bytes than are taken. 2. Another format. 3. Its size can't be read. 4. A side is 0. 5. More pixels than are taken.
    """
    if len(data) > MAX_UPLOAD_BYTES:  # 1
        raise NotAPicture(f"has {len(data):,} bytes; at most {MAX_UPLOAD_BYTES:,} are taken")
    kind = format_of(data)
    if kind is None:  # 2
        raise NotAPicture("is no PNG, JPEG or WebP file")
    size_px = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size}[kind](data)
    if size_px is None:  # 3
        raise NotAPicture(f"is a {kind.upper()} file that is cut or broken")
    width_px, height_px = size_px
    if not width_px or not height_px:  # 4
        raise NotAPicture("has a side of 0 pixels")
    if width_px * height_px > MAX_UPLOAD_PX:  # 5
        raise NotAPicture(f"has {width_px} x {height_px} pixels; at most {MAX_UPLOAD_PX:,} are taken")
    return PictureHead(kind, width_px, height_px)


def fitted_px(width_px: int, height_px: int, most_width_px: int, most_height_px: int, multiple_px: int) -> tuple[int, int]:
    """The size nearest to a picture's own that is admitted: made smaller as a whole where a side is too long, each side cut down to a
    multiple, and at least one. Worked number: 1000 x 750 into 512 x 512 by 8: 512 x 384."""
    shrink = min(1.0, most_width_px / width_px, most_height_px / height_px)
    width, height = (max(multiple_px, int(side * shrink + 1e-6) // multiple_px * multiple_px) for side in (width_px, height_px))
    return width, height


def _png_size(data: bytes) -> tuple[int, int] | None:
    """IHDR is the first chunk: length, name, width, height."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walks the segments to the first that begins a frame: length, precision, height, width (ITU T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # a fill byte, or a marker without a segment
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The first chunk: VP8 (lossy, RFC 6386 9.1), VP8L (lossless) or VP8X (extended: the canvas)."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    return None
