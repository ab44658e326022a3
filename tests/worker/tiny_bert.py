"""A BERT of a few kilobytes with made-up weights: what a real llama.cpp embeds, or ranks, with."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path

from tests.gpu.sparse import GGUF_ALIGNMENT, write_gguf

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁one", "▁two", "▁three", "▁four")
HIDDEN, FEED_FORWARD, CONTEXT = 32, 64, 512
MEAN, RANK = 1, 4  # llama.h, enum llama_pooling_type


def write_tiny_bert(path: Path, pooling: int = MEAN, context: int = CONTEXT) -> None:
    keys: dict[str, object] = {
        "general.architecture": "bert", "bert.block_count": 1, "bert.context_length": context, "bert.embedding_length": HIDDEN,
        "bert.feed_forward_length": FEED_FORWARD, "bert.attention.head_count": 2, "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False, "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": list(WORDS), "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.unknown_token_id": 1, "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.seperator_token_id": 3, "tokenizer.ggml.eos_token_id": 3,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(WORDS), HIDDEN), "token_types.weight": (2, HIDDEN), "position_embd.weight": (context, HIDDEN),
        "token_embd_norm.weight": (HIDDEN,), "token_embd_norm.bias": (HIDDEN,),
        **{f"blk.0.attn_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
        **{f"blk.0.attn_{part}.bias": (HIDDEN,) for part in ("q", "k", "v", "output")},
        **{f"blk.0.{part}_output_norm.{what}": (HIDDEN,) for part in ("attn", "layer") for what in ("weight", "bias")},
        "blk.0.ffn_up.weight": (FEED_FORWARD, HIDDEN), "blk.0.ffn_up.bias": (FEED_FORWARD,),
        "blk.0.ffn_down.weight": (HIDDEN, FEED_FORWARD), "blk.0.ffn_down.bias": (HIDDEN,),
    }
    if pooling == RANK:
        shapes |= {"cls.weight": (HIDDEN, HIDDEN), "cls.bias": (HIDDEN,), "cls.output.weight": (1, HIDDEN), "cls.output.bias": (1,)}
    data_bytes = write_gguf(path, keys, [(name, shape, "F32") for name, shape in shapes.items()])
    made = random.Random(1)
    data = b""
    for shape in shapes.values():
        values = [made.gauss(0, 1) for _ in range(math.prod(shape))]
        raw = struct.pack(f"<{len(values)}f", *values)
        data += raw + bytes(-len(raw) % GGUF_ALIGNMENT)
    with path.open("r+b") as file:
        file.seek(-data_bytes, 2)
        file.write(data)
