"""F1: the bytes that a text model's weights take, walked tensor by tensor."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from services.sizing.gguf_mix import gguf_bytes
from services.sizing.params import TensorShape, tensors_of
from services.sizing.quant import Scheme, parse_scheme
from services.sizing.types import TextGeometry, Variant


def rotary_cache_bytes(geometry: TextGeometry, dtype_bytes: float) -> int:
    """vLLM keeps cos and sin for every position: max_position_embeddings x head_dim x dtype (MLA: of the rotary part only).

    Worked number: Llama-3.1-8B, 131072 x 128 x 2 B = 33,554,432 (0.03125 GiB), which is why it loads as 14.9888 GiB and Llama-3-8B,
    the same weights with 8192 positions, as 14.9595.
    """
    return int(geometry.max_position_embeddings * (geometry.mla_rope_head_dim or geometry.head_dim) * dtype_bytes)


MIB_2 = 2 * 1024**2
_FUSED = {
    "attn_q": "qkv", "attn_k": "qkv", "attn_v": "qkv", "ffn_gate": "gate_up", "ffn_up": "gate_up",
    "ffn_gate_exps": "experts_in", "ffn_up_exps": "experts_in",
}  # fmt: skip


def allocated_bytes(size_bytes: float, *, whole_blocks: bool = False) -> float:
    """What PyTorch's caching allocator charges for a tensor: from 10 MiB up whole blocks of 2 MiB, unless over 1 MiB of the last would be
    left, which is split off for others; with `whole_blocks` that rest counts too. Worked number: 31.5 MiB -> 32 MiB, 52.5 MiB -> 52.5 MiB,
    or 54 MiB in whole blocks.
    """
    if size_bytes < 5 * MIB_2:
        return size_bytes
    whole = math.ceil(size_bytes / MIB_2) * MIB_2
    return whole if whole_blocks or whole - size_bytes <= MIB_2 / 2 else size_bytes


@lru_cache(maxsize=4096)
def allocator_slack_bytes(geometry: TextGeometry, scheme: Scheme, tensor_parallel: int = 1, *, whole_blocks: bool = False) -> int:
    """What the allocator's rounding adds to vLLM's weights. vLLM fuses q, k, v into one matrix and gate, up into another.

    `whole_blocks`: what the card really gives up, and what vLLM 0.21 and later report as weights. Worked numbers: Qwen2.5-7B in 16 bit:
    2 MiB a layer (qkv 31.5 -> 32, gate_up 259 -> 260, down 129.5 -> 130), 57 MiB with embedding and lm_head: it loads as 14.25 GiB where
    its tensors are 14.19. Qwen2.5-1.5B in 16 bit, whole blocks: 91 MiB (gate_up 52.5 -> 54, down 26.25 -> 28): 2.98 GiB on 0.28 and 0.30,
    where 0.7.2 said 2.89.
    """
    fused: dict[tuple[int | None, str], float] = {}
    for tensor in tensors_of(geometry):
        part = tensor.name.rsplit(".", 1)[-1]
        group = _FUSED.get(part, part)
        # Packed weights lie apart from their scales; only the packed part is large.
        size = int(_element_bytes(tensor, scheme) * 2) / 2 * tensor.elements / tensor_parallel
        fused[tensor.layer, group] = fused.get((tensor.layer, group), 0.0) + size
    return int(sum(allocated_bytes(size, whole_blocks=whole_blocks) - size for size in fused.values()))


def _element_bytes(tensor: TensorShape, scheme: Scheme) -> float:
    """Bytes per element of a tensor under a scheme: attention and lm_head where the scheme sets them apart, then what it quantizes."""
    part = tensor.name.rsplit(".", 1)[-1]
    if tensor.role == "output" and scheme.output_bytes is not None:
        return scheme.output_bytes
    if tensor.role == "linear" and scheme.attention_bytes is not None:
        if part == "ssm_ba":
            return scheme.other_bytes
        if part.startswith(("attn_", "ssm_")):
            return scheme.attention_bytes
    quantized = tensor.role == "expert" or (tensor.role == "linear" and scheme.quantizes == "linear")
    return scheme.matrix_bytes if quantized else scheme.other_bytes


@lru_cache(maxsize=4096)
def scheme_bytes(geometry: TextGeometry, scheme: Scheme, *, tensor_parallel: int = 1) -> int:
    """Checkpoint weights of one rank under a safetensors scheme, without the rotary cache.

    Worked number: Llama-3.1-8B in bf16 = 8,030,261,248 x 2 = 16,060,522,496 bytes (14.957 GiB).
    """
    total = 0.0
    for tensor in tensors_of(geometry):
        total += tensor.elements * _element_bytes(tensor, scheme)
    # Vision towers stay 16 bit in every scheme that vLLM loads; what `other_params` holds is unknown, so it is billed unquantized too.
    total += (geometry.vision_params + geometry.other_params) * scheme.other_bytes
    return int(total / tensor_parallel)


def scheme_for(geometry: TextGeometry, quant: str) -> Scheme:
    """The scheme as it is used on this model.

    GPTQ checkpoints of hybrid MoE models (Qwen3.5 and its kin) quantize the experts only; their quantization_config leaves out attention,
    recurrent layers and shared experts. NVFP4 checkpoints of hybrids keep all attention in FP8 and pack lm_head too, those of Gemma 4 leave
    attention in 16 bit (hf_quant_config.json of nvidia/Qwen3.6-27B-NVFP4, Qwen3.6-35B-A3B-NVFP4 and Gemma-4-31B-IT-NVFP4).
    """
    return scheme_on(geometry, parse_scheme(quant))


def scheme_on(geometry: TextGeometry, scheme: Scheme) -> Scheme:
    """The same for a scheme that is parsed already."""
    if scheme.family == "nvfp4" and geometry.recurrent is not None:
        return replace(scheme, attention_bytes=1.0, output_bytes=scheme.matrix_bytes)
    if scheme.family == "nvfp4" and geometry.architecture.startswith("Gemma4"):
        return replace(scheme, attention_bytes=scheme.other_bytes)
    if scheme.family == "gptq" and geometry.recurrent is not None and geometry.num_experts:
        return replace(scheme, quantizes="experts")
    return scheme


def safetensors_bytes(geometry: TextGeometry, variant: Variant, dtype_bytes: int) -> int:
    """What a safetensors variant takes once loaded, without the rotary cache. Exact bytes of the catalogue win over geometry.

    A 16-bit checkpoint that is run in float32 doubles, a float32 one run in 16 bit halves.
    """
    scheme = scheme_for(geometry, variant.quant)
    if variant.weight_bytes is not None:
        stored = scheme.matrix_bytes if scheme.family == "none" else dtype_bytes
        return int(variant.weight_bytes * dtype_bytes / stored)
    if scheme.family == "none":
        scheme = replace(scheme, matrix_bytes=float(dtype_bytes), other_bytes=float(dtype_bytes))
    return scheme_bytes(geometry, scheme)


@lru_cache(maxsize=4096)
def gguf_parts(geometry: TextGeometry, quant: str) -> tuple[int, int, int]:
    """(all tensors, token embedding, Gemma's per-layer token table) of a GGUF file in bytes, from the mix's rules.

    Worked number: Llama-3.2-3B Q4_K_M: 2,011,539,456 in all, of which 323,205,120 (308.23 MiB) is the tied token table.
    """
    sizes = gguf_bytes(
        tensors_of(geometry), quant, tied=geometry.tie_word_embeddings, experts=geometry.num_experts or 0,
        kv_head_group=geometry.num_attention_heads // max(1, geometry.num_key_value_heads),
    )
    return sum(sizes.values()), sizes["token_embd"], sizes.get("per_layer_token_embd", 0)


def llamacpp_bytes(geometry: TextGeometry, variant: Variant, *, on_gpu: bool) -> tuple[int, int]:
    """(bytes on the card, bytes in host RAM) of a GGUF variant's weights (F6).

    On a GPU the token table stays on the host, but a tied model has a second copy on the GPU as its output matrix. The per-layer token
    table of Gemma 3n and Gemma 4 E2B/E4B stays on the host alone: llama.cpp counts it as an input tensor (ggml-org/llama.cpp#14400).
    vLLM has it on the card, as any embedding (`scheme_bytes`). On the CPU everything is there once.

    Worked number: Gemma 4 E4B's per-layer table, 262144 x 42 x 256, is 2,818,572,288 elements: 5.25 GiB of vLLM's card in 16 bit.
    """
    total, table, layer_table = gguf_parts(geometry, variant.quant)
    if variant.weight_bytes is not None:
        table, layer_table = (int(part * variant.weight_bytes / total) for part in (table, layer_table))
        total = variant.weight_bytes
    if not on_gpu:
        return total, 0
    return total - layer_table - (0 if geometry.tie_word_embeddings else table), table + layer_table
