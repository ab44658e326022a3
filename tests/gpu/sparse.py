"""Weights files of any size that take no disk: a true header, then a hole that reads as zeros.

Every engine reads, moves and packs them as it would the real ones, and zeros are finite in every quantization.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from services.sizing.gguf_mix import BITS

SAFETENSORS_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
GGUF_ALIGNMENT = 32
# ggml.h, enum ggml_type.
GGML_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
_STRING, _ARRAY, _U32, _I32, _F32, _BOOL = 8, 9, 4, 5, 6, 7


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> int:
    """Returns the bytes of its tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * SAFETENSORS_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    _write(path, struct.pack("<Q", len(raw)) + raw, offset)
    return offset


def write_gguf(path: Path, keys: Mapping[str, object], tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> int:
    """`tensors`: name, shape as (rows, columns), ggml type. Returns the bytes of its tensors, padding included."""
    table, offset, count = [], 0, 0
    for name, shape, kind in tensors:
        sides = tuple(reversed(shape))  # ggml names the columns first
        table.append(_text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, GGML_TYPES[kind], offset))
        offset += -(-math.prod(shape) * BITS[kind][0] / 8 // GGUF_ALIGNMENT) * GGUF_ALIGNMENT
        offset, count = int(offset), count + 1
    pairs = b"".join(_text(key) + _value(value) for key, value in keys.items())
    head = b"GGUF" + struct.pack("<IQQ", 3, count, len(keys)) + pairs + b"".join(table)
    _write(path, head + bytes(-len(head) % GGUF_ALIGNMENT), offset)
    return offset


def _write(path: Path, head: bytes, data_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + data_bytes)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    assert isinstance(value, list)
    if value and isinstance(value[0], int):
        return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _I32, len(value), *value)
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_text(str(one)) for one in value)
