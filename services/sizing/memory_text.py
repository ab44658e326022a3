"""F2, F3 and F6: KV cache and activations of text models, per engine. Sizes are bytes, lengths tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.sizing.types import ModelSpec, RecurrentLayers, TextGeometry, TextWorkload

VLLM_BLOCK_TOKENS = 16
VLLM_CPU_BLOCK_TOKENS = 128
LLAMACPP_PAD_TOKENS = 256
LLAMACPP_UBATCH_TOKENS = 512
VLLM_BATCH_TOKENS = 2048
# Bytes per element of a KV cache dtype. q8_0 and friends carry a 2-byte scale for each 32 elements.
KV_BYTES = {
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "int8": 1.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "fp16": 2.0, "f16": 2.0, "float16": 2.0, "bf16": 2.0, "bfloat16": 2.0, "fp32": 4.0, "f32": 4.0, "float32": 4.0,
}  # fmt: skip
# Bytes per logit of vLLM's dummy sampler run: fp32 logits, sort values, int64 indices, probabilities. Read off Llama-3.2-3B at 160, 192
# and 320 sequences (0.75, 0.90, 1.49 GiB on vLLM 0.8). Later versions profile with less (vllm_rules.py) but still sort when requests ask
# for top-k or top-p, so a bill keeps the room.
SAMPLER_BYTES_PER_LOGIT = 39.2


@dataclass(frozen=True, slots=True)
class KvLayers:
    """How many layers keep a cache, by kind. `state_bytes` is what the recurrent layers keep for one sequence, at any length."""

    full: int
    window: int
    window_tokens: int
    state_bytes: int


def kv_layers(geometry: TextGeometry, state_bytes_per_element: float = 2.0) -> KvLayers:
    """Layers with a full cache, with a window, and the state of recurrent layers."""
    recurrent = geometry.recurrent.layers if geometry.recurrent else 0
    window = geometry.sliding_window_layers or 0 if geometry.sliding_window_tokens else 0
    attention = geometry.kv_layers if geometry.kv_layers is not None else geometry.num_hidden_layers - recurrent
    state = geometry.recurrent.layers * _state_elements(geometry, geometry.recurrent) if geometry.recurrent else 0
    full = max(0, attention - window)
    return KvLayers(full, min(window, attention), geometry.sliding_window_tokens or 0, int(state * state_bytes_per_element))


def _state_elements(geometry: TextGeometry, recurrent: RecurrentLayers) -> int:
    tail = recurrent.conv_kernel - 1
    if recurrent.kind == "short_conv":
        return tail * geometry.hidden_size
    inner = recurrent.value_heads * recurrent.value_head_dim
    channels = inner + 2 * recurrent.key_heads * recurrent.key_head_dim
    return tail * channels + inner * recurrent.key_head_dim


def kv_bytes_per_token(geometry: TextGeometry, element_bytes: float, *, window: bool = False, tensor_parallel: int = 1) -> float:
    """F2: one layer's cache for one token: 2 x kv_heads of the rank x head_dim x bytes; MLA keeps (rank + rope) once for all heads.

    KV heads below the tensor-parallel size are replicated, not split. Worked number: Llama-3.1-8B, 2 x 8 x 128 x 2 B = 4096 a layer,
    131,072 bytes for all 32.
    """
    if geometry.mla_kv_lora_rank:
        return (geometry.mla_kv_lora_rank + (geometry.mla_rope_head_dim or 0)) * element_bytes
    heads = geometry.num_key_value_heads
    head_dim = geometry.head_dim
    if not window:
        heads = geometry.full_attention_kv_heads or heads
        head_dim = geometry.full_attention_head_dim or head_dim
    return 2 * max(1, math.ceil(heads / tensor_parallel)) * head_dim * element_bytes


def kv_element_bytes(kv_dtype: str, dtype_bytes: float) -> float:
    """Bytes per cached element; "auto" is the model's dtype. Raises ValueError for a dtype that no engine has."""
    if kv_dtype == "auto":
        return float(dtype_bytes)
    if kv_dtype.lower() not in KV_BYTES:
        raise ValueError(f'"{kv_dtype[:40]}" is no KV cache dtype; known: auto, {", ".join(sorted(KV_BYTES))}.')
    return KV_BYTES[kv_dtype.lower()]


def vllm_kv_bytes(
    geometry: TextGeometry, context_tokens: int, sequences: int, element_bytes: float, *,
    block_tokens: int = VLLM_BLOCK_TOKENS, batch_tokens: int = VLLM_BATCH_TOKENS, tensor_parallel: int = 1,
) -> int:
    """The KV pool that holds `sequences` requests of `context_tokens` each, in whole blocks.

    Layers with a window keep the window and what one step adds. vLLM puts layers of one kind into groups as large as the rarer kind, so
    the last group is padded. Recurrent layers keep one state a sequence. Worked number: Llama-3.1-8B, 8 x 4096 tokens in 16 bit =
    32 x 4096 B x 32768 = 4 GiB.
    """
    layers = kv_layers(geometry)
    blocks = math.ceil(context_tokens / block_tokens)
    total = layers.full * kv_bytes_per_token(geometry, element_bytes, tensor_parallel=tensor_parallel) * blocks * block_tokens
    if layers.window:
        kept = min(context_tokens, layers.window_tokens + batch_tokens)
        group = min(layers.full, layers.window) or layers.window
        padded = math.ceil(layers.window / group) * group
        per_token = kv_bytes_per_token(geometry, element_bytes, window=True, tensor_parallel=tensor_parallel)
        total += padded * per_token * math.ceil(kept / block_tokens) * block_tokens
    return math.ceil(sequences * (total + layers.state_bytes / tensor_parallel))


def vllm_activation_bytes(geometry: TextGeometry, workload: TextWorkload, dtype_bytes: float) -> int:
    """F3: the peak of vLLM's profile run: the larger of the sampler at full batch and one step of `batch_tokens` through the widest MLP.

    max(39.2 B x sequences x vocabulary, batch_tokens x (3 x intermediate + 3 x hidden) x dtype). An MoE token passes through
    `num_experts_per_tok` experts, whose outputs are held one by one. Worked number: Qwen2.5-7B, 256 sequences: 39.2 x 256 x 152064 =
    1.42 GiB.
    """
    batch_tokens = workload.batch_tokens or VLLM_BATCH_TOKENS
    sampler = SAMPLER_BYTES_PER_LOGIT * workload.sequences * geometry.vocab_size
    return int(max(sampler, step_bytes(geometry, batch_tokens, dtype_bytes)))


def step_bytes(geometry: TextGeometry, batch_tokens: int, dtype_bytes: float, *, tensor_parallel: int = 1) -> float:
    """One un-chunked step: tokens x (3 x intermediate + 3 x hidden) x dtype; ranks share the MLP's width. Worked numbers: Llama-3.1-8B at
    29,000 tokens: 2.99 GiB; Qwen2.5-7B at 8192 (vLLM 0.28's step): 1.03 GiB, logged as 1.04."""
    wide, streams = geometry.intermediate_size, 3
    if geometry.num_experts:
        chosen = geometry.num_experts_per_tok or 1
        wide = max(chosen * (geometry.moe_intermediate_size or wide) + (geometry.shared_expert_intermediate_size or 0), 1)
        streams += chosen
    return batch_tokens * (3 * wide / tensor_parallel + streams * geometry.hidden_size) * dtype_bytes


def llamacpp_kv_bytes(geometry: TextGeometry, context_tokens: int, sequences: int, element_bytes: float) -> int:
    """F6: llama.cpp's cache: context x sequences cells, padded to 256 a sequence; window layers keep the window and one ubatch.

    Worked number: Llama-3.2-3B, 2048 tokens: 28 layers x 4096 B x 2048 = 224 MiB.
    """
    layers = kv_layers(geometry, state_bytes_per_element=4.0)
    cells = _padded(context_tokens)
    total = layers.full * kv_bytes_per_token(geometry, element_bytes) * cells
    if layers.window:
        kept = min(cells, _padded(layers.window_tokens + LLAMACPP_UBATCH_TOKENS))
        total += layers.window * kv_bytes_per_token(geometry, element_bytes, window=True) * kept
    return math.ceil(sequences * (total + layers.state_bytes))


def llamacpp_compute_bytes(geometry: TextGeometry, total_context_tokens: int, *, flash_attention: bool = True) -> int:
    """F6: llama.cpp's compute buffer: ubatch x (vocabulary + hidden) x 4 B, or the attention scores where flash attention is off.

    Without flash attention: ubatch x 4 B x (heads x context + context + 4 x hidden). With it the mask is still there (ubatch x context,
    2 B and its copy). Worked number: Qwen2.5-7B, 512 x (152064 + 3584) x 4 B = 304 MiB.
    """
    logits = LLAMACPP_UBATCH_TOKENS * (geometry.vocab_size + geometry.hidden_size) * 4
    if flash_attention:
        return max(logits, LLAMACPP_UBATCH_TOKENS * 4 * (total_context_tokens + 4 * geometry.hidden_size))
    scores = geometry.num_attention_heads * total_context_tokens + total_context_tokens + 4 * geometry.hidden_size
    return max(logits, LLAMACPP_UBATCH_TOKENS * 4 * scores)


def reads_whole(model: ModelSpec) -> bool:
    """Whether a text goes through the model in one piece: encoders, which keep no cache, see all of it at once."""
    return model.kind in ("embedding", "rerank") and model.text is not None and model.text.kv_layers == 0


def llamacpp_encoder_bytes(geometry: TextGeometry, context_tokens: int, *, flash_attention: bool = True) -> int:
    """F6 for an encoder, whose ubatch is its context: the attention scores of the longest text with itself. It makes no logits.

    Worked number: bge-m3 at 8192 tokens with flash attention: 8192 x 4 B x (8192 + 4 x 1024) = 384 MiB.
    """
    heads = 0 if flash_attention else geometry.num_attention_heads
    return context_tokens * 4 * ((heads + 1) * context_tokens + 4 * geometry.hidden_size)


def _padded(tokens: int) -> int:
    return math.ceil(tokens / LLAMACPP_PAD_TOKENS) * LLAMACPP_PAD_TOKENS
