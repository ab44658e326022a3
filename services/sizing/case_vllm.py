"""A vLLM run as a case: F1 to F4 with what the run's version did by default (`vllm_rules.py`).

V0 profiled a whole un-chunked prompt of `max_model_len` tokens up to 32768 and chunked above; V1 (default from 0.8 on bf16 cards,
everywhere from 0.10) always chunks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from services.sizing import vllm_rules as rules
from services.sizing.case_fields import Case, card_gib, flag, held_by_others_gib, lora_slots, number, on_windows, share, text, tokens, whole
from services.sizing.case_geometry import VisionProfile, vision_profile
from services.sizing.case_quant import checkpoint_scheme, gguf_type
from services.sizing.memory_lora import vllm_lora_bytes
from services.sizing.memory_text import KV_BYTES, kv_bytes_per_token, kv_element_bytes, kv_layers, step_bytes, vllm_kv_bytes
from services.sizing.memory_weights import allocator_slack_bytes, gguf_parts, rotary_cache_bytes, scheme_bytes
from services.sizing.overheads import GRAPHS_ESTIMATE_BYTES, OVERHEADS, graphs_bytes
from services.sizing.types import TextGeometry, Verdict
from services.sizing.units import GIB

MARGINAL_GIB = 0.15
_UNIFIED = re.compile(r"unified|jetson|\b(?:agx|orin|thor|xavier|gb10|dgx spark)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Run:
    """The settings of one run, defaults filled in as its version would."""

    version: rules.Version
    sequences: int
    batch_tokens: int
    chunked: bool
    max_model_len: int
    tensor_parallel: int
    pipeline_parallel: int
    eager: bool

    @property
    def generation(self) -> str:
        return self.version.generation


def vllm_case(case: Case, geometry: TextGeometry) -> dict[str, object]:
    """weights, activation peak, available KV, KV tokens, verdict; sizes in GiB. KV figures are None where the card's size is not given."""
    run = _run(case, geometry)
    dtype_bytes = 4.0 if text(case, "quant", "bf16").lower() in ("fp32", "float32", "f32") else 2.0
    weights_gib = _weights_bytes(case, geometry, run, dtype_bytes) / GIB / run.pipeline_parallel
    element = kv_element_bytes(_kv_dtype(case), dtype_bytes)
    activation = _activation_bytes(run, geometry, dtype_bytes, vision_profile(text(case, "model")))
    result: dict[str, object] = {"weights_gib": weights_gib, "activation_peak_gib": activation / GIB}
    result["lora_gib"] = vllm_lora_bytes(geometry, *lora_slots(case)) / GIB
    result["total_peak_gib"] = weights_gib + activation / GIB
    total_gib = card_gib(case)
    if total_gib is None:
        return result | {"verdict": None, "kv_available_gib": None, "kv_tokens": None}
    utilization = share(case, "gpu_memory_utilization") or rules.default_utilization(run.version)
    budget_gib = utilization * total_gib
    outside_gib = rules.non_torch_gib(run.version, run.tensor_parallel * run.pipeline_parallel)
    if rules.counts_others(run.version):
        outside_gib += held_by_others_gib(case)
    if _UNIFIED.search(text(case, "gpu")):
        outside_gib += OVERHEADS["vllm-cuda"].host_bytes / GIB  # one memory for both: the process's own host part counts
    if rules.graphs_inside(run.version, geometry, eager=run.eager):
        outside_gib += GRAPHS_ESTIMATE_BYTES / GIB
    available_gib = budget_gib - weights_gib - activation / GIB - outside_gib
    one = _request_bytes(geometry, run, element)
    graphs_gib = 0.0 if run.eager or on_windows(case) else graphs_bytes(run.sequences) / GIB
    return result | {
        "kv_available_gib": available_gib, "kv_tokens": kv_tokens(geometry, run, available_gib * GIB, element),
        "kv_bytes_per_token": logged_token_bytes(geometry, run, element), "kv_needed_gib": one / GIB,
        "verdict": _verdict(budget_gib, total_gib - held_by_others_gib(case), available_gib, one / GIB, graphs_gib).value,
    }  # fmt: skip


def _weights_bytes(case: Case, geometry: TextGeometry, run: _Run, dtype_bytes: float) -> float:
    """F1 for one tensor-parallel rank, with LoRA buffers. A GGUF file keeps its own types."""
    rotary = rotary_cache_bytes(geometry, dtype_bytes)
    slots, rank = lora_slots(case)
    lora = vllm_lora_bytes(geometry, slots, rank)
    gguf = gguf_type(text(case, "quant", "bf16"))
    if gguf is not None:
        return gguf_parts(geometry, gguf)[0] / run.tensor_parallel + rotary + lora
    scheme = checkpoint_scheme(geometry, text(case, "quant", "bf16"))
    slack = allocator_slack_bytes(geometry, scheme, run.tensor_parallel, whole_blocks=run.version.counts_blocks)
    return scheme_bytes(geometry, scheme, tensor_parallel=run.tensor_parallel) + rotary + slack + lora


def _run(case: Case, geometry: TextGeometry) -> _Run:
    """1. What the case says. 2. V1: its version's sequences and steps. 3. V0: the whole prompt up to 32768 tokens, chunks above.
    4. A vision model of V0's days whose version is not known is profiled un-chunked, as V0 did.
    """
    # 1
    version = rules.version_of(text(case, "engine_version") or text(case, "engine"), text(case, "model"))
    length = tokens(case, "max_model_len", 2**24) or geometry.max_position_embeddings
    sequences = whole(case, "max_num_seqs", 1, 65536)
    batch = whole(case, "max_num_batched_tokens", 1, 2**24)
    ranks = whole(case, "tensor_parallel", 1, 1024) or 1, whole(case, "pipeline_parallel", 1, 1024) or 1
    eager = flag(case, "enforce_eager")
    # 4
    unsaid = version.minor is None and "v1" not in text(case, "engine_version").lower()
    unchunked_vision = vision_profile(text(case, "model")) is not None and unsaid
    # 2
    if version.generation == "v1" and not unchunked_vision:
        card, name = number(case, "gpu_vram_gib", 0.25, 4096), text(case, "gpu")
        sequences = sequences or rules.default_sequences(card, name)
        batch = batch or min(rules.default_step_tokens(version, geometry, card, name), sequences * length)
        return _Run(version, sequences, batch, True, length, *ranks, eager)
    # 3
    chunked = length > rules.V0_CHUNKS_ABOVE_TOKENS and not unchunked_vision
    chunk = rules.OLD_CHUNK_TOKENS if version.generation == "old" else rules.V0_CHUNK_TOKENS
    return _Run(version, sequences or rules.DEFAULT_SEQUENCES, batch or (chunk if chunked else max(length, rules.V0_CHUNK_TOKENS)),
                chunked, length, *ranks, eager)  # fmt: skip


def _kv_dtype(case: Case) -> str:
    name = text(case, "kv_dtype", "auto").lower()
    return name if name in KV_BYTES else "auto"


def _activation_bytes(run: _Run, geometry: TextGeometry, dtype_bytes: float, vision: VisionProfile | None) -> float:
    """F3: the larger of one step and the sampler at full batch. The vision tower comes before the text model, and its output stays."""
    step = step_bytes(geometry, run.batch_tokens, dtype_bytes, tensor_parallel=run.tensor_parallel)
    logits = min(run.sequences, run.batch_tokens) * geometry.vocab_size
    sampler = rules.sampler_bytes_per_logit(run.version, geometry, chunked=run.chunked) * logits
    if vision is None:
        return max(step, sampler)
    images = run.sequences if vision.per_sequence else max(1, run.batch_tokens // vision.tokens_per_image)
    return max(step + images * vision.kept_bytes_per_image, images * vision.bytes_per_image, sampler)


def _request_bytes(geometry: TextGeometry, run: _Run, element_bytes: float) -> float:
    """One request of max_model_len. V0 knew no windows: every layer kept everything."""
    known = geometry if run.generation == "v1" else _without_windows(geometry)
    return vllm_kv_bytes(known, run.max_model_len, 1, element_bytes, batch_tokens=run.batch_tokens, tensor_parallel=run.tensor_parallel)


def _without_windows(geometry: TextGeometry) -> TextGeometry:
    return replace(geometry, sliding_window_tokens=None, sliding_window_layers=None, recurrent=None,
                   kv_layers=geometry.kv_layers if geometry.kv_layers is not None else geometry.num_hidden_layers)  # fmt: skip


def kv_tokens(geometry: TextGeometry, run: _Run, available_bytes: float, element_bytes: float) -> int:
    """F2 in whole blocks of 16 tokens, as the "GPU KV cache size" line says it."""
    if available_bytes <= 0 or logged_token_bytes(geometry, run, element_bytes) <= 0:
        return 0
    if _by_concurrency(geometry, run):
        return int(available_bytes / logged_token_bytes(geometry, run, element_bytes))
    return int(available_bytes / logged_token_bytes(geometry, run, element_bytes) / 16) * 16


def _by_concurrency(geometry: TextGeometry, run: _Run) -> bool:
    layers = kv_layers(geometry)
    return bool(layers.window or layers.state_bytes) and run.version.since(20)


def logged_token_bytes(geometry: TextGeometry, run: _Run, element_bytes: float) -> float:
    """The bytes that one token of that line stands for on a rank.

    1. One kind of layer: its layers' cache; a pipeline-parallel rank holds its own layers only.
    2. Several kinds, vLLM 0.20 and later: requests of max_model_len that fit, times its length.
    3. Several kinds before that (V1): blocks divided by the number of layer groups, however little a group keeps; so a hybrid with
       three groups of recurrent layers logs a quarter of what it holds. V0 knew no windows.
    """
    block = vllm_kv_bytes(_without_windows(geometry), 16, 1, element_bytes, tensor_parallel=run.tensor_parallel) / 16
    layers = kv_layers(geometry)
    # 1
    if run.generation != "v1" or not (layers.window or layers.state_bytes) or not layers.full:
        return block / run.pipeline_parallel
    # 2
    if _by_concurrency(geometry, run):
        return _request_bytes(geometry, run, element_bytes) / run.max_model_len
    # 3
    recurrent = geometry.recurrent.layers if geometry.recurrent else 0
    groups = 1 + sum(math.ceil(kind / layers.full) for kind in (layers.window, recurrent))
    return groups * layers.full * kv_bytes_per_token(geometry, element_bytes, tensor_parallel=run.tensor_parallel) / run.pipeline_parallel


def _verdict(budget: float, free: float, available: float, needed: float, graphs: float) -> Verdict:
    """F4, in GiB.

    1. vLLM asks for its whole budget at the start: less free than that is refused.
    2. Less KV than one full request: refused.
    3. CUDA graphs come on top of the budget: no room for them is an out-of-memory after minutes of loading (not under Windows and WSL,
       whose driver then moves memory to the host: 10.8 GB were seen to run on a 6 GB card).
    4. Within 0.15 GiB of a refusal the same command was seen to pass and to fail: tight.
    """
    # 1, 2, 3
    if free < budget or available < needed or free - budget < graphs:
        return Verdict.DOES_NOT_FIT
    # 4
    return Verdict.TIGHT if available - needed < MARGINAL_GIB else Verdict.FITS
