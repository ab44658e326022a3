"""A GGUF header as a TextGeometry.

Keys: llama.cpp's gguf-py/gguf/constants.py (`{arch}.block_count` and the like). What the metadata leaves out (biases, tied output, how many
norms) is seen from which tensors are there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from services.sizing.checkpoint import CheckpointError
from services.sizing.checkpoint_gguf import GgufHeader
from services.sizing.checkpoint_gguf_types import FILE_TYPES
from services.sizing.checkpoint_json import MAX_NUMBER
from services.sizing.params import MAX_LAYERS
from services.sizing.types import RecurrentLayers, TextGeometry

ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen2vl": "Qwen2VLForConditionalGeneration", "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM", "qwen3next": "Qwen3NextForCausalLM", "qwen35": "Qwen3_5ForConditionalGeneration",
    "qwen35moe": "Qwen3_5MoeForConditionalGeneration", "phi3": "Phi3ForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration", "gemma4": "Gemma4ForConditionalGeneration",
    "gpt-oss": "GptOssForCausalLM", "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM", "granitemoe": "GraniteMoeForCausalLM", "granitehybrid": "GraniteMoeHybridForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "olmoe": "OlmoeForCausalLM", "deepseek2": "DeepseekV2ForCausalLM",
    "mistral3": "Mistral3ForConditionalGeneration", "lfm2": "Lfm2ForCausalLM",
    "bert": "BertModel", "nomic-bert": "NomicBertModel", "modern-bert": "ModernBertModel",
}  # fmt: skip
# Every how many layers one has no window; 1 for all layers with a window never occurs with these.
_FULL_EVERY = {"gemma2": 2, "gpt-oss": 2, "gemma3": 6, "gemma-embedding": 6, "cohere2": 4}
_ENCODERS = ("bert", "nomic-bert", "modern-bert", "jina-bert-v2", "gemma-embedding")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def geometry_of_gguf(header: GgufHeader, name: str) -> TextGeometry:
    """The text model in a GGUF file. Raises CheckpointError when it is no language model."""
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise CheckpointError(f"{name}: general.architecture is missing; the file does not say what model it holds.")
    keys = _Keys(header, arch, name)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{name}: no token_embd.weight: not a whole language model (a later part of a split, or a projector).")
    layers, heads = keys.needed("block_count"), keys.needed("attention.head_count")
    if layers > MAX_LAYERS:
        raise CheckpointError(f"{name}: {layers} layers; no model has more than {MAX_LAYERS}.")
    inner = {match[2] for match in map(_LAYER.fullmatch, tensors) if match}
    recurrent = _recurrent(keys, layers, inner)
    window_tokens, window_layers = _window(keys, arch, layers)
    geometry = TextGeometry(
        architecture=ARCHITECTURES.get(arch, arch[:120]),
        hidden_size=keys.needed("embedding_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys.number("attention.head_count_kv") or heads,
        head_dim=keys.number("attention.key_length") or keys.needed("embedding_length") // heads,
        intermediate_size=keys.number("feed_forward_length") or 0,
        vocab_size=embedding.shape[0],
        max_position_embeddings=keys.needed("context_length"),
        tie_word_embeddings="output.weight" not in tensors and arch not in _ENCODERS,
        attention_bias=bool({"attn_q.bias", "attn_qkv.bias"} & inner),
        qk_norm="attn_q_norm.weight" in inner,
        mlp_matrices=3 if {"ffn_gate.weight", "ffn_gate_exps.weight"} & inner or arch == "phi3" else 2,
        norms_per_layer=max(1, len(inner & {f"{norm}.weight" for norm in _NORMS})),
        kv_layers=layers - recurrent.layers if recurrent else None,
        sliding_window_tokens=window_tokens,
        sliding_window_layers=window_layers,
        recurrent=recurrent,
    )
    geometry = _with_experts(_with_latent(geometry, keys), keys)
    return _with_gemma4(geometry, keys) if arch == "gemma4" else geometry


_NORMS = ("attn_norm", "ffn_norm", "attn_output_norm", "layer_output_norm", "post_attention_norm", "post_ffw_norm", "attn_post_norm")


def quant_of_gguf(header: GgufHeader) -> str | None:
    """The mixture's name: by `general.file_type`, else the type that most bytes have."""
    kind = header.metadata.get("general.file_type")
    if isinstance(kind, int) and kind in FILE_TYPES:
        return FILE_TYPES[kind]
    bytes_of: dict[str, int] = {}
    for tensor in header.tensors:
        bytes_of[tensor.dtype] = bytes_of.get(tensor.dtype, 0) + tensor.size_bytes
    return max(bytes_of, key=lambda dtype: bytes_of[dtype]) if bytes_of else None


class _Keys:
    """The metadata of one architecture. A list (one figure per layer) counts as its largest."""

    def __init__(self, header: GgufHeader, arch: str, name: str) -> None:
        self._metadata, self._arch, self._name = header.metadata, arch, name
        self._tensors = header.tensors

    def raw(self, key: str) -> Any:
        return self._metadata.get(f"{self._arch}.{key}")

    def number(self, key: str) -> int | None:
        value = self.raw(key)
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            value = max(value)
        if value is None or (type(value) is int and 0 <= value <= MAX_NUMBER):
            return value
        raise CheckpointError(f"{self._name}: {self._arch[:40]}.{key} is {str(value)[:40]!r}; a whole number from 0 to 2**40 is needed.")

    def each(self, key: str) -> list[int]:
        """The figures of a list that is not all zeros; empty where the key is no list."""
        value = self.raw(key)
        return [item for item in value if type(item) is int and 0 < item <= MAX_NUMBER] if isinstance(value, list) else []

    def tensors_named(self, part: str) -> int:
        return sum(1 for tensor in self._tensors if tensor.name.endswith(f".{part}"))

    def needed(self, key: str) -> int:
        value = self.number(key)
        if not value:
            raise CheckpointError(f"{self._name}: {self._arch[:40]}.{key} is missing or 0; without it the model cannot be sized.")
        return value


def _window(keys: _Keys, arch: str, layers: int) -> tuple[int | None, int | None]:
    """(window in tokens, layers that have it). The pattern is a list of flags, a period, or the architecture's habit."""
    tokens = keys.number("attention.sliding_window")
    pattern = keys.raw("attention.sliding_window_pattern")
    if not tokens:
        return None, None
    if isinstance(pattern, list):
        return tokens, min(layers, sum(1 for flag in pattern if flag))
    every = pattern if type(pattern) is int and pattern > 0 else _FULL_EVERY.get(arch)
    return tokens, layers - layers // every if every else layers


def _recurrent(keys: _Keys, layers: int, inner: set[str]) -> RecurrentLayers | None:
    heads = keys.number("ssm.time_step_rank")
    per_layer = keys.raw("attention.head_count_kv")
    if isinstance(per_layer, list):
        count = sum(1 for heads_kv in per_layer if heads_kv == 0)
    else:
        interval = keys.number("full_attention_interval") or 4
        count = layers - layers // interval
    if "shortconv.in_proj.weight" in inner:
        return RecurrentLayers("short_conv", min(layers, count), keys.number("shortconv.l_cache") or 3)
    if not heads or "ssm_out.weight" not in inner:
        return None
    return RecurrentLayers(
        kind="gated_delta" if "attn_gate.weight" in inner else "mamba2",
        layers=min(layers, count),
        conv_kernel=keys.number("ssm.conv_kernel") or 4,
        value_heads=heads,
        value_head_dim=keys.needed("ssm.inner_size") // heads,
        key_heads=keys.number("ssm.group_count") or 1,
        key_head_dim=keys.needed("ssm.state_size"),
    )


def _with_latent(geometry: TextGeometry, keys: _Keys) -> TextGeometry:
    if not keys.number("attention.kv_lora_rank"):
        return geometry
    rope = keys.needed("rope.dimension_count")
    key_length = keys.number("attention.key_length_mla") or keys.needed("attention.key_length")
    return replace(
        geometry,
        mla_kv_lora_rank=keys.number("attention.kv_lora_rank"),
        mla_rope_head_dim=rope,
        mla_nope_head_dim=max(0, key_length - rope),
        mla_v_head_dim=keys.number("attention.value_length_mla") or keys.number("attention.value_length"),
        mla_q_lora_rank=keys.number("attention.q_lora_rank") or None,
    )


def _with_experts(geometry: TextGeometry, keys: _Keys) -> TextGeometry:
    if not keys.number("expert_count"):
        return geometry
    width = keys.number("expert_feed_forward_length")
    shared = keys.number("expert_shared_feed_forward_length") or (keys.number("expert_shared_count") or 0) * (width or 0)
    return replace(
        geometry,
        num_experts=keys.number("expert_count"),
        num_experts_per_tok=keys.number("expert_used_count"),
        moe_intermediate_size=width,
        shared_expert_intermediate_size=shared or None,
        num_dense_layers=keys.number("leading_dense_block_count") or None,
    )


def _with_gemma4(geometry: TextGeometry, keys: _Keys) -> TextGeometry:
    """Lists per layer say which layers are wider; `attention.shared_kv_layers` counts those that borrow a cache."""
    layers = geometry.num_hidden_layers
    borrowing = min(keys.number("attention.shared_kv_layers") or 0, layers - 1)
    heads_kv = keys.each("attention.head_count_kv")
    widths = keys.each("feed_forward_length")
    window_layers = geometry.sliding_window_layers
    return replace(
        geometry,
        head_dim=keys.number("attention.key_length_swa") or geometry.head_dim,
        full_attention_head_dim=keys.number("attention.key_length"),
        full_attention_kv_heads=min(heads_kv) if len(set(heads_kv)) > 1 else None,
        full_attention_shares_kv=keys.tensors_named("attn_v.weight") < keys.tensors_named("attn_k.weight"),
        intermediate_size=min(widths, default=geometry.intermediate_size),
        wide_mlp_layers=sum(1 for width in widths if width > min(widths)) or None,
        kv_layers=layers - borrowing if borrowing else None,
        sliding_window_layers=window_layers * (layers - borrowing) // layers if window_layers else None,
        per_layer_embedding_size=keys.number("embedding_length_per_layer_input") or None,
    )
