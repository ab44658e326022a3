"""Writers of small checkpoints for the tests: the formats from their public descriptions, independent of the readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any


class MemoryFiles:
    """`Files` in memory that counts what is read."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = dict(contents)
        self.read_bytes = 0

    def sizes(self) -> dict[str, int]:
        return {name: len(content) for name, content in self.contents.items()}

    def read(self, name: str, offset: int, length: int) -> bytes:
        piece = self.contents[name][offset : offset + length]
        self.read_bytes += len(piece)
        return piece


def safetensors(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str, shape: Sequence[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def number(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def words(key: str, value: str) -> bytes:
    return pair(key, 8, text(value))


def numbers(key: str, values: Sequence[int]) -> bytes:
    return pair(key, 9, struct.pack(f"<IQ{len(values)}I", 4, len(values), *values))


def texts(key: str, values: Sequence[str]) -> bytes:
    return pair(key, 9, struct.pack("<IQ", 8, len(values)) + b"".join(text(value) for value in values))


def tensor(name: str, sides: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def gguf(pairs: Sequence[bytes], tensors: Sequence[bytes], data_bytes: int, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data_bytes)


LLAMA_KEYS = (
    words("general.architecture", "llama"),
    number("llama.block_count", 1),
    number("llama.context_length", 2048),
    number("llama.embedding_length", 64),
    number("llama.feed_forward_length", 128),
    number("llama.attention.head_count", 4),
    number("llama.attention.head_count_kv", 2),
    texts("tokenizer.ggml.tokens", ["a"] * 256),
)


def tiny_gguf(keys: Sequence[bytes] = LLAMA_KEYS) -> bytes:
    """A whole one-layer Llama: Q4_0 matrices, F32 norms, tied output."""
    listed = [("token_embd.weight", (64, 256), 2), ("output_norm.weight", (64,), 0)]
    listed += [("blk.0.attn_norm.weight", (64,), 0), ("blk.0.ffn_norm.weight", (64,), 0)]
    listed += [(f"blk.0.{part}.weight", (64, 64), 2) for part in ("attn_q", "attn_output")]
    listed += [(f"blk.0.{part}.weight", (64, 32), 2) for part in ("attn_k", "attn_v")]
    listed += [("blk.0.ffn_gate.weight", (64, 128), 2), ("blk.0.ffn_up.weight", (64, 128), 2), ("blk.0.ffn_down.weight", (128, 64), 2)]
    tensors, offset = [], 0
    for name, sides, kind in listed:
        tensors.append(tensor(name, sides, kind, offset))
        elements = sides[0] * (sides[1] if len(sides) > 1 else 1)
        offset += elements * 4 if kind == 0 else elements // 32 * 18
    return gguf(keys, tensors, offset)


TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
