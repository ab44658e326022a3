"""The header of a GGUF file: metadata and the tensor table, without the weights.

Format: ggml's docs/gguf.md (little-endian, versions 2 and 3). Long arrays (the vocabulary) are walked but not kept, so the memory needed
does not depend on what the file claims; every count is checked against what the rest of the file could hold before a loop starts.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from services.sizing.checkpoint import MAX_TENSORS, CheckpointError, ReadRange, TensorInfo, check_layout
from services.sizing.checkpoint_gguf_types import GGML_TYPES, row_bytes

MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_PAIRS = 10_000
# A vocabulary of 262,144 with its types, scores and merges makes about 1.4 million items.
MAX_ARRAY_ITEMS = 4_000_000
MAX_KEPT_ITEMS = 4096
MAX_ARRAY_DEPTH = 2
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 8
MAX_TENSOR_BYTES = 2**50
FIRST_WINDOW_BYTES = 256 * 1024
LAST_WINDOW_BYTES = 8 * 1024 * 1024

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`metadata` holds scalars, strings and short number arrays; of a long array only its length is kept, as `<key>.length`."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    header_bytes: int


class _Cursor:
    """Reads forward through the header in growing windows (a remote file is asked for few, ever larger ranges)."""

    def __init__(self, read: ReadRange, name: str) -> None:
        self.name = name
        self.position = 0
        self.items_left = MAX_ARRAY_ITEMS
        self._read, self._window, self._start, self._next_bytes = read, b"", 0, FIRST_WINDOW_BYTES

    def take(self, length: int) -> bytes:
        if self.position + length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{self.name}: the header is longer than {MAX_HEADER_BYTES:,} bytes; no real one is.")
        at = self.position - self._start
        if at + length > len(self._window):
            self._window = self._window[at:] + self._read(self._start + len(self._window), max(self._next_bytes, length))
            self._start, at = self.position, 0
            self._next_bytes = min(self._next_bytes * 2, LAST_WINDOW_BYTES)
        piece = self._window[at : at + length]
        if len(piece) < length:
            raise CheckpointError(f"{self.name}: the header breaks off after {self.position + len(piece):,} bytes; the file is truncated.")
        self.position += length
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, what: str, limit: int) -> int:
        value = int(self.number("<Q"))
        if value > limit:
            raise CheckpointError(f"{self.name}: {value:,} {what} announced, at most {limit:,} accepted; the file is damaged or hostile.")
        return value

    def text(self, what: str, limit: int) -> str:
        return self.take(self.count(f"bytes of {what}", limit)).decode("utf8", "replace")

    def skip_texts(self, items: int) -> None:
        """Step over `items` strings: inside the window without a call for each, for a vocabulary has half a million."""
        while items:
            window, at = self._window, self.position - self._start
            while items and at + 8 <= len(window):
                after = at + 8 + _LENGTH.unpack_from(window, at)[0]
                if after > len(window):
                    break
                at, items = after, items - 1
            self.position = self._start + at
            if items:
                self.take(self.count("bytes of a text", MAX_HEADER_BYTES))
                items -= 1


def read_gguf(read: ReadRange, name: str, file_bytes: int | None) -> GgufHeader:
    """The header of one file. `file_bytes` None: the length is not known and not checked. Raises CheckpointError."""
    cursor = _Cursor(read, name)
    if cursor.take(4) != b"GGUF":
        raise CheckpointError(f"{name} does not begin with GGUF; it is not a GGUF file.")
    version = int(cursor.number("<I"))
    if version not in (2, 3):
        raise CheckpointError(f"{name}: GGUF version {version}; versions 2 and 3 (little-endian) are read.")
    tensor_count = cursor.count("tensors", MAX_TENSORS)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count("metadata entries", MAX_PAIRS)):
        key = cursor.text("a key", MAX_NAME_BYTES)
        if key in metadata or f"{key}.length" in metadata:
            raise CheckpointError(f"{name}: the metadata key {key[:80]!r} is given twice.")
        _keep(metadata, key, _value(cursor, int(cursor.number("<I")), 0))
    tensors, spans = _tensor_table(cursor, tensor_count)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment % 8:
        raise CheckpointError(f"{name}: general.alignment is {str(alignment)[:40]!r}; a multiple of 8 is needed.")
    if any(start % alignment for start, _, _ in spans):
        raise CheckpointError(f"{name}: a tensor does not begin at a multiple of {alignment} bytes; the file is damaged or hostile.")
    header_bytes = -(-cursor.position // alignment) * alignment
    check_layout(name, spans, None if file_bytes is None else file_bytes - header_bytes)
    return GgufHeader(version, metadata, tensors, header_bytes)


def _keep(metadata: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, _Length):
        metadata[f"{key}.length"] = value.items
    else:
        metadata[key] = value


@dataclass(frozen=True, slots=True)
class _Length:
    items: int


def _value(cursor: _Cursor, kind: int, depth: int) -> Any:
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind == _STRING:
        return cursor.text("a text", MAX_HEADER_BYTES)
    if kind == _ARRAY and depth < MAX_ARRAY_DEPTH:
        return _array(cursor, depth)
    problem = f"arrays nested more than {MAX_ARRAY_DEPTH} deep" if kind == _ARRAY else f"the unknown value type {kind}"
    raise CheckpointError(f"{cursor.name}: the metadata holds {problem}; the file is damaged or hostile.")


def _array(cursor: _Cursor, depth: int) -> Any:
    kind = int(cursor.number("<I"))
    items = cursor.count("array items", cursor.items_left)
    cursor.items_left -= items
    if kind in _NUMBERS:
        width = struct.calcsize(_NUMBERS[kind])
        if items > MAX_KEPT_ITEMS:
            for first in range(0, items, LAST_WINDOW_BYTES // 8):
                cursor.take(min(LAST_WINDOW_BYTES // 8, items - first) * width)
            return _Length(items)
        return list(struct.unpack(f"<{items}{_NUMBERS[kind][1]}", cursor.take(items * width)))
    if kind == _STRING:
        cursor.skip_texts(items)
    else:
        for _ in range(items):
            _value(cursor, kind, depth + 1)
    return _Length(items)


def _tensor_table(cursor: _Cursor, count: int) -> tuple[tuple[TensorInfo, ...], list[tuple[int, int, str]]]:
    tensors: list[TensorInfo] = []
    spans: list[tuple[int, int, str]] = []
    seen: set[str] = set()
    for _ in range(count):
        tensor = cursor.text("a tensor name", MAX_NAME_BYTES)
        if tensor in seen:
            raise CheckpointError(f"{cursor.name}: the tensor {tensor[:80]!r} is listed twice.")
        seen.add(tensor)
        dimensions = int(cursor.number("<I"))
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise CheckpointError(f"{cursor.name}: tensor {tensor[:80]!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are accepted.")
        sides = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))
        kind, start = int(cursor.number("<I")), int(cursor.number("<Q"))
        info = _sized(cursor.name, tensor, sides, kind)
        tensors.append(info)
        spans.append((start, start + info.size_bytes, tensor))
    return tuple(tensors), spans


def _sized(name: str, tensor: str, sides: tuple[int, ...], kind: int) -> TensorInfo:
    if kind not in GGML_TYPES:
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r} has the unknown ggml type {kind}; a newer rigserve may know it.")
    ggml_type = GGML_TYPES[kind][0]
    try:
        size_bytes = row_bytes(ggml_type, sides[0]) * math.prod(sides[1:])
    except ValueError as error:
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r}: {error}; the file is damaged.") from None
    if size_bytes > MAX_TENSOR_BYTES:
        raise CheckpointError(f"{name}: tensor {tensor[:80]!r} would take more than 2**50 bytes; the file is damaged or hostile.")
    return TensorInfo(tensor, ggml_type, tuple(reversed(sides)), size_bytes)
