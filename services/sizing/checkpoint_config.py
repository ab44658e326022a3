"""Hugging Face's config.json as a TextGeometry, and its quantization_config as one short name.

Families differ in what they leave out of the file (transformers fills it from the class's defaults); the small tables below are those
defaults and habits, taken from transformers 5.19's configuration and modelling files of each family.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.sizing.checkpoint import CheckpointError
from services.sizing.checkpoint_json import MAX_NUMBER, needed, whole
from services.sizing.params import MAX_LAYERS
from services.sizing.types import RecurrentLayers, TextGeometry

Config = dict[str, Any]

_QK_NORM = ("qwen3", "gemma3", "gemma4", "olmo2", "olmo3", "olmoe", "lfm2")
_FOUR_NORMS = ("gemma2", "gemma3", "gemma4", "glm4")
_ONE_NORM = ("phi", "cohere", "cohere2")
_TWO_MATRICES = (
    "bert", "roberta", "xlm-roberta", "gpt2", "gpt_neox", "gptj", "gpt_bigcode", "bloom", "mpt", "phi", "starcoder2", "nemotron", "falcon",
    "arcee", "apertus",
)  # fmt: skip
_TIED = ("gemma", "gemma2", "gemma3", "gemma4", "bert", "roberta", "xlm-roberta", "nomic_bert", "modernbert")
# Every how many layers one has no window, where the config does not list `layer_types`.
_FULL_EVERY = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "cohere2": 4}
_GEMMA3_DEFAULTS = {
    "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
}  # fmt: skip
_OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "intermediate_size": ("n_inner", "ffn_dim"),
    "max_position_embeddings": ("n_positions", "seq_length"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "shared_expert_intermediate_size": ("shared_intermediate_size",),
}


def geometry_of_config(config: Config, name: str = "config.json") -> TextGeometry:
    """The text model that a config describes (its `text_config` for a vision model). Raises CheckpointError."""
    architecture = _architecture(config, name)
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {"model_type": config.get("model_type"), "tie_word_embeddings": config.get("tie_word_embeddings")} | text
    family = _family(config, name)
    config = _with_usual_names(config, family)
    heads = needed(config, "num_attention_heads", name)
    hidden = needed(config, "hidden_size", name)
    layers = needed(config, "num_hidden_layers", name)
    if layers > MAX_LAYERS:
        raise CheckpointError(f"{name}: {layers} layers; no model has more than {MAX_LAYERS}.")
    window_tokens, window_layers = _window(config, family, layers, name)
    recurrent = _recurrent(config, layers, name)
    tied = config.get("tie_word_embeddings")
    geometry = TextGeometry(
        architecture=architecture,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=whole(config, "num_key_value_heads", name) or heads,
        head_dim=whole(config, "head_dim", name) or hidden // heads,
        intermediate_size=_mlp_width(config, family, name) or 4 * hidden,
        vocab_size=needed(config, "vocab_size", name),
        max_position_embeddings=needed(config, "max_position_embeddings", name),
        tie_word_embeddings=family in _TIED if tied is None else tied is True,
        attention_bias=config.get("attention_bias") is True,
        qk_norm=family.startswith(_QK_NORM) or config.get("use_qk_norm") is True,
        mlp_matrices=2 if family in _TWO_MATRICES else 3,
        norms_per_layer=4 if family in _FOUR_NORMS else 1 if family in _ONE_NORM else 2,
        kv_layers=layers - recurrent.layers if recurrent else None,
        sliding_window_tokens=window_tokens,
        sliding_window_layers=window_layers,
        recurrent=recurrent,
    )
    geometry = _with_experts(_with_latent(geometry, config, name), config, name)
    return _with_gemma4(geometry, config, name) if family.startswith("gemma4") else geometry


def quant_of_config(config: Config) -> str | None:
    """How the weights are stored: awq-int4-g128, gptq-int4-g128, bnb-nf4, bnb-int8, fp8, mxfp4, bf16 ...; None if unsaid."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        dtype = config.get("torch_dtype") or config.get("dtype")
        return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype) if isinstance(dtype, str) else None
    method = str(settings.get("quant_method", "unknown"))[:40]
    if method in ("awq", "gptq"):
        return f"{method}-int{settings.get('bits', 4)}-g{settings.get('group_size', 128)}"[:40]
    if method == "bitsandbytes":
        return f"bnb-{settings.get('bnb_4bit_quant_type', 'fp4')}"[:40] if settings.get("load_in_4bit") else "bnb-int8"
    return method


def _architecture(config: Config, name: str) -> str:
    listed = config.get("architectures")
    if isinstance(listed, list) and listed and isinstance(listed[0], str):
        return listed[0][:120]
    kind = config.get("model_type")
    if isinstance(kind, str) and kind:
        return kind[:120]
    raise CheckpointError(f"{name} names no architecture (`architectures` or `model_type`); it is not the config of a language model.")


def _family(config: Config, name: str) -> str:
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{name}: model_type is missing.")
    return kind.removesuffix("_text").removesuffix("_unified")


def _with_usual_names(config: Config, family: str) -> Config:
    config = {key: value for key, value in config.items() if value is not None}
    for usual, others in _OTHER_NAMES.items():
        value = next((config[other] for other in others if other in config), None)
        if usual not in config and value is not None:
            config[usual] = value
    return _GEMMA3_DEFAULTS | config if family == "gemma3" else config


def _layer_types(config: Config) -> list[Any]:
    listed = config.get("layer_types") or config.get("layers_block_type")
    return listed if isinstance(listed, list) else []


def _window(config: Config, family: str, layers: int, name: str) -> tuple[int | None, int | None]:
    """(window in tokens, layers that have it), (None, None) for full attention everywhere.

    1 no `sliding_window`, or `use_sliding_window: false`: none
    2 `layer_types` lists them
    3 one layer in every `sliding_window_pattern` (or the family's habit) is full
    4 otherwise all layers have the window (Mistral 7B v0.1, Phi-3-mini-4k)
    """
    # 1
    tokens = whole(config, "sliding_window", name)
    if not tokens or config.get("use_sliding_window") is False:
        return None, None
    # 2
    kinds = _layer_types(config)
    if kinds:
        count = min(layers, sum(1 for kind in kinds if kind in ("sliding_attention", "chunked_attention")))
        return (tokens, count) if count else (None, None)
    # 3
    every = whole(config, "sliding_window_pattern", name) or _FULL_EVERY.get(family)
    if every:
        return tokens, layers - layers // every
    # 4
    return tokens, layers


def _recurrent(config: Config, layers: int, name: str) -> RecurrentLayers | None:
    kinds = _layer_types(config)
    interval = whole(config, "full_attention_interval", name)
    if whole(config, "linear_num_value_heads", name):
        counted = sum(1 for kind in kinds if kind == "linear_attention") if kinds else layers - layers // (interval or 4)
        return RecurrentLayers(
            kind="gated_delta",
            layers=min(layers, counted),
            conv_kernel=whole(config, "linear_conv_kernel_dim", name) or 4,
            value_heads=needed(config, "linear_num_value_heads", name),
            value_head_dim=needed(config, "linear_value_head_dim", name),
            key_heads=needed(config, "linear_num_key_heads", name),
            key_head_dim=needed(config, "linear_key_head_dim", name),
        )
    mamba_layers = sum(1 for kind in kinds if kind in ("mamba", "linear_attention"))
    if whole(config, "mamba_n_heads", name) and mamba_layers:
        return RecurrentLayers(
            kind="mamba2",
            layers=min(layers, mamba_layers),
            conv_kernel=whole(config, "mamba_d_conv", name) or 4,
            value_heads=needed(config, "mamba_n_heads", name),
            value_head_dim=needed(config, "mamba_d_head", name),
            key_heads=whole(config, "mamba_n_groups", name) or 1,
            key_head_dim=needed(config, "mamba_d_state", name),
        )
    if "conv" in kinds:
        return RecurrentLayers("short_conv", min(layers, kinds.count("conv")), whole(config, "conv_L_cache", name) or 3)
    return None


def _mlp_width(config: Config, family: str, name: str) -> int | None:
    """Granite 4's dense models keep their MLP in what its MoE models call the shared expert; LFM2 writes the width before SwiGLU's 2/3."""
    dense_hybrid = family == "granitemoehybrid" and not whole(config, "num_experts", name)
    width = whole(config, "shared_expert_intermediate_size" if dense_hybrid else "intermediate_size", name)
    if width and config.get("block_auto_adjust_ff_dim") is True:
        multiple = whole(config, "block_multiple_of", name) or 256
        return -(-(2 * width // 3) // multiple) * multiple
    return width


def _with_latent(geometry: TextGeometry, config: Config, name: str) -> TextGeometry:
    if not whole(config, "kv_lora_rank", name):
        return geometry
    return replace(
        geometry,
        mla_kv_lora_rank=needed(config, "kv_lora_rank", name),
        mla_rope_head_dim=needed(config, "qk_rope_head_dim", name),
        mla_nope_head_dim=needed(config, "qk_nope_head_dim", name),
        mla_v_head_dim=needed(config, "v_head_dim", name),
        mla_q_lora_rank=whole(config, "q_lora_rank", name) or None,
    )


def _with_gemma4(geometry: TextGeometry, config: Config, name: str) -> TextGeometry:
    """Wider full-attention layers, layers that borrow a cache, the second token table, and seven norms where there are experts."""
    layers = geometry.num_hidden_layers
    borrowing = min(whole(config, "num_kv_shared_layers", name) or 0, layers - 1)
    window_layers = geometry.sliding_window_layers
    return replace(
        geometry,
        num_experts_per_tok=whole(config, "top_k_experts", name),
        norms_per_layer=7 if geometry.num_experts else 4,
        kv_layers=layers - borrowing if borrowing else None,
        sliding_window_layers=window_layers * (layers - borrowing) // layers if window_layers else None,
        full_attention_head_dim=whole(config, "global_head_dim", name) or _widest_head(config, name),
        full_attention_kv_heads=whole(config, "num_global_key_value_heads", name),
        full_attention_shares_kv=config.get("attention_k_eq_v") is True,
        per_layer_embedding_size=whole(config, "hidden_size_per_layer_input", name) or None,
        wide_mlp_layers=borrowing if config.get("use_double_wide_mlp") is True else None,
    )


def _widest_head(config: Config, name: str) -> int | None:
    """transformers 5.19 writes {"05": {"head_dim": 512}, ...} instead of global_head_dim."""
    layers = config.get("per_layer_config")
    own = [layer for layer in layers.values() if isinstance(layer, dict)] if isinstance(layers, dict) else []
    return max((whole(layer, "head_dim", name) or 0 for layer in own), default=0) or None


def _with_experts(geometry: TextGeometry, config: Config, name: str) -> TextGeometry:
    experts = whole(config, "num_experts", name)
    if not experts:
        return geometry
    width = whole(config, "moe_intermediate_size", name)
    shared = whole(config, "shared_expert_intermediate_size", name) or (whole(config, "n_shared_experts", name) or 0) * (width or 0)
    if shared > MAX_NUMBER:
        raise CheckpointError(f"{name}: shared experts {shared} wide; no model has such.")
    kinds = config.get("mlp_layer_types")
    dense = kinds.count("dense") if isinstance(kinds, list) else whole(config, "first_k_dense_replace", name)
    return replace(
        geometry,
        num_experts=experts,
        num_experts_per_tok=whole(config, "num_experts_per_tok", name),
        moe_intermediate_size=width,
        shared_expert_intermediate_size=shared or None,
        num_dense_layers=dense or None,
    )
