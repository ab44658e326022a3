"""Bytes to words and back. 1 KiB = 1024 bytes; a bare "G" or "GB" after a memory size means GiB, as on the box of every card."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_FACTORS = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024**4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE | re.ASCII)


class SizeError(ValueError):
    """The text is not a size of memory."""


def parse_bytes(text: str) -> int:
    """Bytes from "8GB", "6144 MiB", "3.5g" or plain bytes. Raises SizeError for anything else, zero and 1 PiB or more.

    Worked number: parse_bytes("8GB") == 8589934592.
    """
    match = _SIZE.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        raise SizeError(f'"{text[:40]}" is not a size; write it like 8GB, 6144MiB or a number of bytes.')
    value = int(float(match[1]) * _FACTORS[match[2].lower()])
    if not 0 < value < 1024**5:
        raise SizeError(f'"{text[:40]}" is not a size that a card or a host can have.')
    return value


def gib(size_bytes: float) -> str:
    """Bytes as people read them: "7.77 GiB", or "350 MiB" below a tenth of a GiB.

    Worked number: gib(8589934592) == "8.00 GiB".
    """
    if abs(size_bytes) < GIB / 10:
        return f"{size_bytes / MIB:.0f} MiB"
    return f"{size_bytes / GIB:.2f} GiB"
