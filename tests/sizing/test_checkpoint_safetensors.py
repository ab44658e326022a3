"""Safetensors headers, honest and hostile."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sizing.checkpoint import CheckpointError, TensorInfo, reader_of
from services.sizing.checkpoint_safetensors import MAX_HEADER_BYTES, read_safetensors
from tests.sizing.checkpoint_bytes import MemoryFiles, entry, safetensors


def read(content: bytes, *, known_length: bool = True) -> tuple[TensorInfo, ...]:
    files = MemoryFiles({"x.safetensors": content})
    return read_safetensors(reader_of(files, "x.safetensors"), "x.safetensors", len(content) if known_length else None)


def test_tensors_are_listed_with_their_exact_bytes() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "embed": entry("BF16", [49152, 576], 0, 56_623_104),
        "packed": entry("F4", [3, 5], 56_623_104, 56_623_112),
        "scalar": entry("F32", [], 56_623_112, 56_623_116),
    }
    tensors = read(safetensors(header), known_length=False)
    assert [(tensor.name, tensor.size_bytes) for tensor in tensors] == [("embed", 49152 * 576 * 2), ("packed", 8), ("scalar", 4)]
    assert tensors[0].elements == 28_311_552


def test_only_the_header_is_read() -> None:
    content = safetensors({"a": entry("U8", [10**6], 0, 10**6)}, bytes(10**6))
    files = MemoryFiles({"x": content})
    read_safetensors(reader_of(files, "x"), "x", len(content))
    assert files.read_bytes < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "truncated"),
        (b"\x01\x02", "truncated"),
        (struct.pack("<Q", 2**60) + b"{}", "announced"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "announced"),
        (struct.pack("<Q", 0), "announced"),
        (struct.pack("<Q", 500) + b"{}", "truncated"),
        (safetensors(b"[1, 2]"), "a JSON object is needed"),
        (safetensors(b"{" + b'"a":[' * 50_000 + b"]" * 50_000 + b"}"), "not valid JSON"),
        (safetensors(b"\xff\xfe{}"), "not valid JSON"),
        (safetensors(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b'], "data_offsets": [0, 4]}}'), "not valid JSON"),
        (safetensors(b'{"a": 1, "a": 2}'), "given twice"),
        (safetensors(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}'), "NaN is not a number"),
        (safetensors({"a": 7}), "data_offsets"),
        (safetensors({"a": {"dtype": "F32", "shape": [1]}}), "data_offsets"),
        (safetensors({"a": entry("F32", [1], -4, 0)}), "no place in a file"),
        (safetensors({"a": entry("F32", [1], 4, 0)}), "no place in a file"),
        (safetensors({"a": entry("F32", [1], 0, 2**62)}), "no place in a file"),
        (safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}), "data_offsets"),
        (safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [False, True]}}), "data_offsets"),
        (safetensors({"a": entry("F31", [1], 0, 4)}), "unknown dtype"),
        (safetensors({"a": entry(["F32"], [1], 0, 4)}), "unknown dtype"),  # type: ignore[arg-type]
        (safetensors({"a": entry("F32", [-1], 0, 4)}), "shape"),
        (safetensors({"a": entry("F32", [2], 0, 4)}, bytes(8)), "does not take 4 bytes"),
        (safetensors({"a": entry("F32", [2**60, 2**60], 0, 4)}, bytes(8)), "does not take 4 bytes"),
        (safetensors({"a": entry("F32", [1] * 17, 0, 4)}, bytes(8)), "shape"),
        (safetensors({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, bytes(8)), "overlap"),
        (safetensors({"a": entry("F32", [2], 0, 8)}, bytes(5)), "3 bytes after the end"),
    ],
)
def test_bad_headers_are_refused_in_one_sentence(content: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=r"^x\.safetensors") as caught:
        read(content)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_names_of_tensors_cannot_fill_the_message() -> None:
    with pytest.raises(CheckpointError) as caught:
        read(safetensors({"a" * 100_000: 7}))
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_list_or_a_refusal(junk: bytes) -> None:
    for content in (junk, safetensors(junk)):
        with suppress(CheckpointError):
            assert isinstance(read(content), tuple)


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8), lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4)
), max_leaves=12)  # fmt: skip


@given(st.dictionaries(st.text(max_size=8), _json, max_size=5))
def test_any_json_ends_in_a_list_or_a_refusal(header: dict[str, object]) -> None:
    with suppress(CheckpointError):
        read(safetensors(header), known_length=False)


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "I8", "F4"]), st.lists(st.integers(0, 9), max_size=3)), max_size=6), st.data())
def test_a_cut_file_is_noticed_wherever_it_is_cut(parts: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    header, offset = {}, 0
    for index, (dtype, shape) in enumerate(parts):
        elements = 1
        for side in shape:
            elements *= side
        size = -(-elements * {"F32": 32, "BF16": 16, "I8": 8, "F4": 4}[dtype] // 8)
        header[str(index)] = entry(dtype, shape, offset, offset + size)
        offset += size
    content = safetensors(header, bytes(offset))
    assert sum(tensor.size_bytes for tensor in read(content)) == offset
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(CheckpointError):
        read(content[:cut])
    assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]) == header
