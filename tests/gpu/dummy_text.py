"""Language models of a real shape without weights: a folder for vLLM (`--load-format dummy`), a .gguf file of zeros for llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.sizing.gguf_mix import BITS, gguf_bytes
from services.sizing.params import tensors_of
from services.sizing.quant import parse_scheme
from services.sizing.types import TextGeometry, Variant
from tests.gpu.sparse import write_gguf

# What config.json calls the families that are tried here, and what llama.cpp calls them.
FAMILIES = {"LlamaForCausalLM": ("llama", "llama"), "Qwen2ForCausalLM": ("qwen2", "qwen2")}
END = "<|end|>"
RMS_EPS, ROPE_THETA = 1e-5, 500000.0


def byte_letters() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes with (GPT-2's table): printable ones as they are, the rest from U+0100 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(rest)) for byte in range(256)]


def words(count: int) -> list[str]:
    """A vocabulary of exactly so many: bytes, the end, and as many words as are missing, which no text is cut into."""
    made = [*byte_letters(), END]
    return (made + [f"<|{number}|>" for number in range(len(made), count)])[:count]


def write_folder(folder: Path, geometry: TextGeometry, variant: Variant) -> Path:
    """config.json and a tokenizer of ours; vLLM makes random weights of these shapes itself."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words(geometry.vocab_size))}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": vocabulary[END], "content": END, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary, "merges": []},
    }  # fmt: skip
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": geometry.max_position_embeddings}
    for name, content in (("config.json", config(geometry, variant)), ("tokenizer.json", tokenizer), ("tokenizer_config.json", named)):
        (folder / name).write_text(json.dumps(content), encoding="utf8")
    return folder


def config(geometry: TextGeometry, variant: Variant) -> dict[str, Any]:
    """The keys of Hugging Face's config.json that say what the shape is; how it is packed for AWQ and GPTQ."""
    family = FAMILIES[geometry.architecture][0]
    made: dict[str, Any] = {
        "architectures": [geometry.architecture], "model_type": family, "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": geometry.hidden_size, "intermediate_size": geometry.intermediate_size,
        "num_hidden_layers": geometry.num_hidden_layers, "num_attention_heads": geometry.num_attention_heads,
        "num_key_value_heads": geometry.num_key_value_heads, "head_dim": geometry.head_dim, "vocab_size": geometry.vocab_size,
        "max_position_embeddings": geometry.max_position_embeddings, "tie_word_embeddings": geometry.tie_word_embeddings,
        "rms_norm_eps": RMS_EPS, "rope_theta": ROPE_THETA, "initializer_range": 0.02, "use_cache": True,
        "bos_token_id": None, "eos_token_id": 256,
    }  # fmt: skip
    packing = parse_scheme(variant.quant).family
    if packing == "awq":
        made |= {"torch_dtype": "float16", "quantization_config": {
            "quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True, "modules_to_not_convert": None}}
    elif packing == "gptq":
        made |= {"torch_dtype": "float16", "quantization_config": {
            "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "damp_percent": 0.01}}
    elif packing != "none":
        raise ValueError(f"vLLM can't make dummy weights of {variant.quant}")
    return made


def write_gguf_model(path: Path, geometry: TextGeometry, variant: Variant) -> Path:
    """The file that llama.cpp's quantizer would write, tensor for tensor, with zeros for weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, gguf_keys(geometry), gguf_tensors(geometry, variant.quant))
    return path


def gguf_keys(geometry: TextGeometry) -> dict[str, object]:
    name = FAMILIES[geometry.architecture][1]
    vocabulary = words(geometry.vocab_size)
    return {
        "general.architecture": name, "general.name": "dummy",
        f"{name}.block_count": geometry.num_hidden_layers, f"{name}.context_length": geometry.max_position_embeddings,
        f"{name}.embedding_length": geometry.hidden_size, f"{name}.feed_forward_length": geometry.intermediate_size,
        f"{name}.attention.head_count": geometry.num_attention_heads, f"{name}.attention.head_count_kv": geometry.num_key_value_heads,
        f"{name}.attention.key_length": geometry.head_dim, f"{name}.attention.value_length": geometry.head_dim,
        f"{name}.rope.dimension_count": geometry.head_dim, f"{name}.vocab_size": geometry.vocab_size,
        f"{name}.attention.layer_norm_rms_epsilon": RMS_EPS, f"{name}.rope.freq_base": ROPE_THETA,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * (len(vocabulary) - 256), "tokenizer.ggml.merges": ["H e"],
        "tokenizer.ggml.eos_token_id": 256, "tokenizer.ggml.bos_token_id": 256,
    }  # fmt: skip


def gguf_tensors(geometry: TextGeometry, quant: str) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of every tensor of the mix."""
    tensors = tensors_of(geometry)
    sizes = gguf_bytes(tensors, quant, tied=geometry.tie_word_embeddings, experts=0,
                       kv_head_group=geometry.num_attention_heads // geometry.num_key_value_heads)  # fmt: skip
    return [
        (one.name if one.role == "bias" else f"{one.name}.weight", one.shape, _kind(sizes[one.name] * 8 / one.elements, one.shape[-1]))
        for one in tensors
    ]


def _kind(bits: float, columns: int) -> str:
    """The type with these bits per weight; of two (Q4_0 and Q4_K) the one with the larger block that divides a row."""
    fitting = [name for name, (size, block) in BITS.items() if size == bits and columns % block == 0 and not name.startswith("IQ")]
    return max((name for name in fitting if name not in ("BF16", "MXFP4")), key=lambda name: BITS[name][1])
