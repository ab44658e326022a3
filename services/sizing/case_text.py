"""llama.cpp, transformers, AutoAWQ and exllama runs as cases: F5 and F6."""

from __future__ import annotations

import re
from dataclasses import replace

from services.sizing.case_fields import Case, card_gib, held_by_others_gib, lora_slots, text, tokens, whole
from services.sizing.case_quant import case_scheme, gguf_type
from services.sizing.memory_lora import llamacpp_lora_bytes
from services.sizing.memory_text import KV_BYTES, kv_element_bytes, llamacpp_compute_bytes, llamacpp_kv_bytes, step_bytes, vllm_kv_bytes
from services.sizing.memory_weights import gguf_parts, scheme_bytes
from services.sizing.types import TextGeometry, Verdict
from services.sizing.units import GIB

CUDA_CONTEXT_GIB = 0.35
# Under bits of AWQ and other fused kernels: AutoAWQ's fused layers allocate a cache of this many tokens at least.
FUSED_CACHE_TOKENS = 2048
EXL_HEAD_BITS = 6  # exllamav2's and exllamav3's converters: head_bits
EXL_CHUNK_TOKENS = 2048  # exllamav2: max_chunk_size
_BY_BITS = {"2": "q2_k", "3": "q3_k_m", "4": "q4_k_m", "5": "q5_k_m", "6": "q6_k", "7": "q8_0", "8": "q8_0"}


def llamacpp_case(case: Case, geometry: TextGeometry) -> dict[str, object]:
    """F6: model buffer on the GPU, KV buffer, compute buffer, and whether they fit beside the CUDA context."""
    total, table, layer_table = gguf_parts(geometry, _gguf_quant(case))
    unified = "unified" in text(case, "gpu").lower()
    weights = total if unified else total - layer_table - (0 if geometry.tie_word_embeddings else table)
    length = tokens(case, "max_model_len", 2**24) or geometry.max_position_embeddings
    sequences = whole(case, "max_num_seqs", 1, 65536) or 1
    kv = llamacpp_kv_bytes(_as_cached(case, geometry), length, sequences, kv_element_bytes(_kv_dtype(case), 2))
    compute = llamacpp_compute_bytes(geometry, length * sequences)
    lora = llamacpp_lora_bytes(geometry, *lora_slots(case))
    peak_gib = (weights + lora + kv + compute) / GIB
    return {
        "weights_gib": weights / GIB, "kv_available_gib": kv / GIB, "kv_tokens": length * sequences, "activation_peak_gib": compute / GIB,
        "lora_gib": lora / GIB,
        "total_peak_gib": peak_gib, "verdict": _plain_verdict(case, peak_gib + CUDA_CONTEXT_GIB),
    }  # fmt: skip


def _as_cached(case: Case, geometry: TextGeometry) -> TextGeometry:
    """Before build 5200 (April 2025) llama.cpp kept full keys and values of MLA models; a run that names no build is taken as older."""
    build = re.search(r"\bb(\d{4,5})\b", text(case, "engine_version"))
    if geometry.mla_kv_lora_rank is None or (build and int(build[1]) >= 5200):
        return geometry
    keys = (geometry.mla_nope_head_dim or 0) + (geometry.mla_rope_head_dim or 0)
    # Keys and values differ in width; their mean gives the same sum.
    mean = (keys + (geometry.mla_v_head_dim or 0)) // 2
    return replace(geometry, mla_kv_lora_rank=None, num_key_value_heads=geometry.num_attention_heads, head_dim=mean)


def _gguf_quant(case: Case) -> str:
    """The type that `quant` or the model's name holds; a bare "4-bit" or nothing is the usual Q4_K_M, "8-bit" Q8_0."""
    said = text(case, "quant", "")
    found = gguf_type(said) or (None if said else gguf_type(text(case, "model")))
    if found is not None:
        return found
    bits = re.search(r"(?:^|[^a-z0-9])(?:q|int)?([2-8])(?:[-_ ]?bits?|$|[ (])", said.lower())
    return _BY_BITS[bits[1]] if bits else re.split(r"[ (]", said.strip() or "q4_k_m", maxsplit=1)[0]


def _kv_dtype(case: Case) -> str:
    name = text(case, "kv_dtype", "f16").lower()
    return name if name in KV_BYTES else "f16"


def transformers_case(case: Case, geometry: TextGeometry) -> dict[str, object]:
    """F5: weights without rotary cache + KV of prompt and answer + the prompt's step, by version.

    1. Before 4.45 the logits of every prompt position were computed: 2 bytes and their fp32 copy each.
    2. FP8 checkpoints of tied models carry a second 16-bit output matrix.
    3. The published tables of 4.5x give the resident memory (weights + KV), without the prompt's step.
    """
    scheme = case_scheme(text(case, "quant", "bf16"))
    weights = float(scheme_bytes(geometry, scheme))
    batch = whole(case, "batch_size", 1, 65536) or 1
    prompt, answer = whole(case, "prefill", 0, 2**24), whole(case, "decode", 0, 2**24)
    length = (prompt or 0) + (answer or 0) or tokens(case, "max_model_len", 2**24) or 2048
    prompt = prompt if prompt is not None else length
    kv = vllm_kv_bytes(geometry, length, batch, 2.0, block_tokens=1)
    minor = _transformers_minor(text(case, "engine_version"))
    activation = step_bytes(geometry, prompt * batch, 2)
    # 1
    if minor is not None and minor < 45:
        activation += 6.0 * batch * prompt * geometry.vocab_size
    # 2
    if scheme.family == "fp8" and geometry.tie_word_embeddings:
        weights += 2 * geometry.vocab_size * geometry.hidden_size
    # 3
    if minor is not None and minor >= 50:
        activation = 0.0
    peak_gib = (weights + kv + activation) / GIB
    return {
        "weights_gib": weights / GIB, "activation_peak_gib": activation / GIB, "kv_available_gib": None, "kv_tokens": None,
        "total_peak_gib": peak_gib, "verdict": _plain_verdict(case, peak_gib + CUDA_CONTEXT_GIB),
    }  # fmt: skip


def exllama_case(case: Case, geometry: TextGeometry) -> dict[str, object]:
    """exllama, all versions: token table in host RAM, a cache of the whole length, prompts in chunks. EXL2 and EXL3 quantize the output
    matrix too, to 6 bits unless their maker said otherwise, and their bits per weight hold the scales.

    Worked: a Qwen2.5-32B of 4.0 bpw is 14.53 GiB of matrices and 0.54 of output: 15.07 GiB, where transformers would hold 17.7.
    """
    said = text(case, "quant", "") or text(case, "model")
    bits = re.search(r"(\d+(?:\.\d+)?)\s*_?bpw|exl[23]\D{0,3}(\d+(?:\.\d+)?)", said.lower())
    scheme = case_scheme(text(case, "quant", "bf16"))
    table = geometry.vocab_size * geometry.hidden_size
    if bits:
        size = min(16.0, max(1.0, float(bits[1] or bits[2]))) / 8
        scheme = replace(scheme, matrix_bytes=size, other_bytes=2.0)
    host = 0 if geometry.tie_word_embeddings else 2.0 * table
    weights = scheme_bytes(geometry, scheme) - host - (table * (2.0 - EXL_HEAD_BITS / 8) if bits else 0.0)
    asked = (whole(case, "prefill", 0, 2**24) or 0) + (whole(case, "decode", 0, 2**24) or 0)
    length = tokens(case, "max_model_len", 2**24) or asked or 2048
    kv = vllm_kv_bytes(geometry, length, whole(case, "batch_size", 1, 65536) or 1, kv_element_bytes(_kv_dtype(case), 2), block_tokens=1)
    activation = step_bytes(geometry, min(length, EXL_CHUNK_TOKENS), 2)
    peak_gib = (weights + kv + activation) / GIB
    return {
        "weights_gib": weights / GIB, "activation_peak_gib": activation / GIB, "kv_available_gib": kv / GIB, "kv_tokens": length,
        "total_peak_gib": peak_gib, "verdict": _plain_verdict(case, peak_gib + CUDA_CONTEXT_GIB),
    }  # fmt: skip


def _transformers_minor(version: str) -> int | None:
    match = re.search(r"\b4\.(\d+)", version)
    return int(match[1]) if match else None


def autoawq_case(case: Case, geometry: TextGeometry) -> dict[str, object]:
    """AutoAWQ 0.1: a cache allocated up front, eager attention scores, and logits of the whole prompt."""
    weights = scheme_bytes(geometry, case_scheme(text(case, "quant", "awq")))
    batch = whole(case, "batch_size", 1, 65536) or 1
    prompt, answer = whole(case, "prefill", 0, 2**24) or 0, whole(case, "decode", 0, 2**24) or 0
    kv = vllm_kv_bytes(geometry, max(FUSED_CACHE_TOKENS, prompt + answer), batch, 2.0, block_tokens=1)
    scores = 4.0 * batch * geometry.num_attention_heads * prompt * prompt
    activation = step_bytes(geometry, prompt * batch, 2) + 6.0 * batch * prompt * geometry.vocab_size + scores
    peak_gib = (weights + kv + activation) / GIB
    return {
        "weights_gib": weights / GIB, "activation_peak_gib": activation / GIB, "kv_available_gib": None, "kv_tokens": None,
        "total_peak_gib": peak_gib, "verdict": _plain_verdict(case, peak_gib + CUDA_CONTEXT_GIB),
    }  # fmt: skip


def _plain_verdict(case: Case, need_gib: float) -> str | None:
    """Need against the card: None when the card's size is not given."""
    total_gib = card_gib(case)
    if total_gib is None:
        return None
    spare = total_gib - held_by_others_gib(case) - need_gib
    if spare < 0:
        return Verdict.DOES_NOT_FIT.value
    return (Verdict.TIGHT if spare < 0.15 + 0.02 * need_gib else Verdict.FITS).value
