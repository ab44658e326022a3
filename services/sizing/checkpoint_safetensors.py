"""The header of a safetensors file: 8 bytes of length, then JSON with every tensor's dtype, shape and place.

Format: the safetensors project's README ("Format"). Worked number: a header that lists one BF16 tensor of shape [49152, 576] gives
49152 x 576 x 2 = 56,623,104 bytes.
"""

from __future__ import annotations

import math
from typing import Any

from services.sizing.checkpoint import MAX_TENSORS, CheckpointError, ReadRange, TensorInfo, check_layout
from services.sizing.checkpoint_json import MAX_NUMBER, parse_object

# The format allows 100 MB; the largest public headers have a few. Parsed JSON takes about ten times its text in memory.
MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_DIMENSIONS = 16
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def read_safetensors(read: ReadRange, name: str, file_bytes: int | None, component: str | None = None) -> tuple[TensorInfo, ...]:
    """Every tensor of one file, from its header. `file_bytes` None: the length is not known and not checked. Raises CheckpointError."""
    prefix = read(0, 8)
    if len(prefix) < 8:
        raise CheckpointError(f"{name}: {len(prefix)} bytes are no safetensors file; the file is truncated.")
    header_bytes = int.from_bytes(prefix, "little")
    if not 2 <= header_bytes <= MAX_HEADER_BYTES:
        raise CheckpointError(f"{name}: a header of {header_bytes:,} bytes is announced, 2 to {MAX_HEADER_BYTES:,} are accepted.")
    raw = read(8, header_bytes)
    if len(raw) < header_bytes:
        raise CheckpointError(f"{name}: the header has {len(raw):,} of its {header_bytes:,} bytes; the file is truncated.")
    header = parse_object(raw, name, MAX_HEADER_BYTES)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{name}: {len(header):,} tensors, more than any checkpoint has.")
    tensors, spans = [], []
    for tensor, entry in header.items():
        start, end = _offsets(name, tensor, entry)
        tensors.append(_tensor(name, tensor, entry, end - start, component))
        spans.append((start, end, tensor))
    check_layout(name, spans, None if file_bytes is None else file_bytes - 8 - header_bytes)
    return tuple(tensors)


def _offsets(name: str, tensor: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(offset) is not int for offset in offsets):
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r} has no [start, end] data_offsets.")
    start, end = offsets
    if not 0 <= start <= end <= MAX_NUMBER * 8:
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r} lies at {start}..{end}, which is no place in a file.")
    return start, end


def _tensor(name: str, tensor: str, entry: dict[str, Any], size_bytes: int, component: str | None) -> TensorInfo:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r} has the unknown dtype {str(dtype)[:40]!r}.")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or any(type(side) is not int or side < 0 for side in shape):
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r} has a shape that is no list of whole numbers.")
    if any(side > MAX_NUMBER for side in shape) or -(-math.prod(shape) * bits // 8) != size_bytes:
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r}: {dtype} of shape {str(shape)[:80]} does not take {size_bytes:,} bytes.")
    return TensorInfo(tensor, str(dtype), tuple(shape), size_bytes, component)
