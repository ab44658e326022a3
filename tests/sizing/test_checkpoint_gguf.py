"""GGUF headers, honest and hostile."""

from __future__ import annotations

import random
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.provision.progress import silent
from services.provision.weights import ensure
from services.sizing.catalogue import load_catalogue
from services.sizing.checkpoint import CheckpointError, reader_of
from services.sizing.checkpoint_folder import read_path
from services.sizing.checkpoint_gguf import GgufHeader, read_gguf
from services.sizing.checkpoint_gguf_geometry import geometry_of_gguf, quant_of_gguf
from services.sizing.checkpoint_gguf_types import BLOCKS, bits_per_weight, row_bytes
from services.sizing.params import count_params
from tests.sizing.checkpoint_bytes import LLAMA_KEYS, MemoryFiles, gguf, number, numbers, pair, tensor, text, texts, tiny_gguf, words


def read(content: bytes, *, known_length: bool = True) -> GgufHeader:
    files = MemoryFiles({"m.gguf": content})
    return read_gguf(reader_of(files, "m.gguf"), "m.gguf", len(content) if known_length else None)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("F32", 32), ("BF16", 16), ("Q8_0", 8.5), ("Q6_K", 6.5625), ("Q5_K", 5.5), ("Q4_K", 4.5), ("Q4_0", 4.5), ("Q4_1", 5), ("MXFP4", 4.25)],
)
def test_bits_per_weight_follow_from_the_blocks(name: str, bits: float) -> None:
    assert bits_per_weight(name) == bits


def test_rows_are_whole_blocks() -> None:
    assert row_bytes("Q4_K", 4096) == 16 * 144
    with pytest.raises(ValueError, match="no whole number of Q4_K blocks"):
        row_bytes("Q4_K", 576)
    assert all(elements > 0 and size > 0 for elements, size in BLOCKS.values())


def test_a_whole_file_gives_tensors_geometry_and_quant() -> None:
    content = tiny_gguf()
    header = read(content)
    assert sum(info.size_bytes for info in header.tensors) == len(content) - header.header_bytes
    geometry = geometry_of_gguf(header, "m.gguf")
    assert (geometry.num_key_value_heads, geometry.head_dim, geometry.vocab_size) == (2, 16, 256)
    assert geometry.tie_word_embeddings
    assert not geometry.attention_bias
    assert count_params(geometry) == sum(info.elements for info in header.tensors)
    assert quant_of_gguf(header) == "Q4_0"
    assert header.metadata["tokenizer.ggml.tokens.length"] == 256


def test_the_vocabulary_is_walked_but_not_kept() -> None:
    vocabulary = ["token"] * 300_000
    header = read(tiny_gguf((*LLAMA_KEYS[:-1], texts("tokenizer.ggml.tokens", vocabulary), numbers("scores", range(300_000)))))
    assert header.metadata["tokenizer.ggml.tokens.length"] == 300_000
    assert header.metadata["scores.length"] == 300_000
    assert len(header.tensors) == 11


def test_a_window_and_per_layer_lists_are_understood() -> None:
    keys = [
        words("general.architecture", "gemma3"), number("gemma3.block_count", 6), number("gemma3.context_length", 32768),
        number("gemma3.embedding_length", 64), numbers("gemma3.feed_forward_length", [128] * 6), number("gemma3.attention.head_count", 4),
        numbers("gemma3.attention.head_count_kv", [1] * 6), number("gemma3.attention.key_length", 32),
        number("gemma3.attention.sliding_window", 512),
    ]  # fmt: skip
    header = read(gguf(keys, [tensor("token_embd.weight", (64, 128), 1, 0)], 64 * 128 * 2))
    geometry = geometry_of_gguf(header, "m.gguf")
    assert (geometry.sliding_window_tokens, geometry.sliding_window_layers) == (512, 5)
    assert (geometry.head_dim, geometry.num_key_value_heads, geometry.intermediate_size) == (32, 1, 128)


def test_gemma4s_lists_per_layer_are_understood() -> None:
    """The lists of an E2B: 10 layers, the last 5 borrow a cache and have the wide MLP, every fifth has no window and wider heads."""
    keys = [
        words("general.architecture", "gemma4"), number("gemma4.block_count", 10), number("gemma4.context_length", 131072),
        number("gemma4.embedding_length", 64), numbers("gemma4.feed_forward_length", [128] * 5 + [256] * 5),
        number("gemma4.attention.head_count", 4), number("gemma4.attention.head_count_kv", 1),
        number("gemma4.attention.key_length", 64), number("gemma4.attention.key_length_swa", 32),
        number("gemma4.attention.sliding_window", 512), numbers("gemma4.attention.sliding_window_pattern", [1, 1, 1, 1, 0] * 2),
        number("gemma4.attention.shared_kv_layers", 5), number("gemma4.embedding_length_per_layer_input", 16),
    ]  # fmt: skip
    geometry = geometry_of_gguf(read(gguf(keys, [tensor("token_embd.weight", (64, 128), 1, 0)], 64 * 128 * 2)), "m.gguf")
    assert (geometry.head_dim, geometry.full_attention_head_dim, geometry.full_attention_kv_heads) == (32, 64, None)
    assert (geometry.kv_layers, geometry.sliding_window_layers, geometry.sliding_window_tokens) == (5, 4, 512)
    assert (geometry.intermediate_size, geometry.wide_mlp_layers, geometry.per_layer_embedding_size) == (128, 5, 16)


def head(tensors: int = 0, pairs: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


ARRAY = struct.pack("<I", 9)
HOSTILE = [
    (b"", "truncated"),
    (b"GGM", "truncated"),
    (b"GGML" + bytes(40), "does not begin with GGUF"),
    (head(version=1), "version 1"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
    (head(tensors=2**60), "tensors announced"),
    (head(pairs=2**60), "metadata entries announced"),
    (head(pairs=1) + struct.pack("<Q", 2**63) + b"k", "bytes of a key announced"),
    (head(pairs=1) + text("k") + struct.pack("<I", 99), "unknown value type 99"),
    (head(pairs=1) + text("k") + struct.pack("<IQ", 8, 2**62), "bytes of a text announced"),
    (head(pairs=1) + text("k") + struct.pack("<IIQ", 9, 4, 2**61), "array items announced"),
    (head(pairs=1) + text("k") + struct.pack("<IIQ", 9, 8, 3_000_000) + bytes(800), "truncated"),
    (head(pairs=1) + text("k") + ARRAY + struct.pack("<IQ", 9, 1) * 40, "nested more than 2 deep"),
    (head(pairs=2) + number("k", 1) + number("k", 2), "given twice"),
    (head(tensors=1) + text("t") + struct.pack("<I", 2**31), "dimensions"),
    (head(tensors=1) + text("t") + struct.pack("<I", 0), "dimensions"),
    (gguf([], [tensor("t", (64,), 5, 0)], 64), "unknown ggml type 5"),
    (gguf([], [tensor("t", (33,), 2, 0)], 64), "no whole number of Q4_0 blocks"),
    (gguf([], [tensor("t", (2**60, 2**60, 2**60), 0, 0)], 64), "more than 2**50 bytes"),
    (gguf([], [tensor("t", (8,), 0, 0), tensor("t", (8,), 0, 32)], 64), "listed twice"),
    (gguf([], [tensor("t", (16,), 0, 0), tensor("u", (8,), 0, 32)], 96), "overlap"),
    (gguf([], [tensor("t", (16,), 0, 0)], 60), "4 bytes after the end"),
    (gguf([], [tensor("t", (8,), 0, 2**63)], 60), "after the end"),
    (gguf([], [tensor("t", (8,), 0, 7)], 64), "multiple of 32"),
    (gguf([number("general.alignment", 0)], [], 0), "general.alignment"),
    (gguf([words("general.alignment", "32")], [], 0), "general.alignment"),
]


@pytest.mark.parametrize(("content", "said"), HOSTILE, ids=[said for _, said in HOSTILE])
def test_bad_headers_are_refused_in_one_sentence(content: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=r"^m\.gguf") as caught:
        read(content)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_header_that_claims_a_terabyte_reads_little() -> None:
    asked = []

    def endless(offset: int, length: int) -> bytes:
        asked.append(offset + length)
        return (head(pairs=1) + text("k") + struct.pack("<IIQ", 9, 8, 4_000_000) if offset == 0 else b"").ljust(length, b"\1")

    with pytest.raises(CheckpointError):
        read_gguf(endless, "m.gguf", 2**40)
    assert max(asked) <= 80 * 1024 * 1024


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ((), "general.architecture is missing"),
        ((number("general.architecture", 1),), "general.architecture is missing"),
        ((words("general.architecture", "llama"),), "block_count is missing"),
        ((*LLAMA_KEYS, number("llama.attention.kv_lora_rank", 8)), "rope.dimension_count is missing"),
        ((LLAMA_KEYS[0], number("llama.block_count", 2**31), *LLAMA_KEYS[2:]), "no model has more than"),
        ((LLAMA_KEYS[0], words("llama.block_count", "many"), *LLAMA_KEYS[2:]), "a whole number"),
        ((LLAMA_KEYS[0], pair("llama.block_count", 6, struct.pack("<f", 1.5)), *LLAMA_KEYS[2:]), "a whole number"),
    ],
)
def test_metadata_that_makes_no_model_is_refused(keys: tuple[bytes, ...], said: str) -> None:
    header = read(tiny_gguf(keys))
    with pytest.raises(CheckpointError) as caught:
        geometry_of_gguf(header, "m.gguf")
    assert said in str(caught.value)


def test_a_projector_is_no_language_model() -> None:
    header = read(gguf([words("general.architecture", "clip")], [tensor("v.patch_embd.weight", (8,), 0, 0)], 32))
    with pytest.raises(CheckpointError, match="token_embd"):
        geometry_of_gguf(header, "m.gguf")


@given(st.integers(0, len(tiny_gguf()) - 1))
def test_a_cut_file_is_noticed_wherever_it_is_cut(cut: int) -> None:
    with pytest.raises(CheckpointError):
        read(tiny_gguf()[:cut])


@given(st.integers(0, 2**32))
def test_any_damage_ends_in_a_header_or_a_refusal(seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray(tiny_gguf())
    for _ in range(rng.randint(1, 12)):
        content[rng.randrange(0, 900)] = rng.choice((0, 1, 9, 127, 255, rng.randrange(256)))
    with suppress(CheckpointError):
        assert count_params(geometry_of_gguf(read(bytes(content)), "m.gguf")) >= 0


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_refusal_or_a_header(junk: bytes) -> None:
    with suppress(CheckpointError):
        read(b"GGUF\3\0\0\0" + junk, known_length=False)


@pytest.mark.engine
def test_the_real_smollm2_file_weighs_what_the_catalogue_says() -> None:
    model = load_catalogue().get("smollm2-135m-instruct")
    variant = model.variants[0]
    checkpoint = read_path(ensure(model, variant, silent))
    assert (checkpoint.weight_bytes, checkpoint.file_bytes, checkpoint.quant) == (variant.weight_bytes, variant.file_bytes, variant.quant)
    assert checkpoint.text == model.text
