"""A vLLM run as a case: F1 to F4 with what the run's version did by default.

vLLM's rules changed: V0 profiled a whole un-chunked prompt of `max_model_len` tokens up to 32768 and chunked above; V1 (default from 0.8 on
bf16 cards, everywhere from 0.10) always chunks, and its sampler run takes fewer bytes a logit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from services.sizing.case_fields import Case, card_gib, flag, held_by_others_gib, number, text, whole
from services.sizing.case_geometry import VisionProfile, vision_profile
from services.sizing.memory_text import (
    KV_BYTES,
    SAMPLER_BYTES_PER_LOGIT,
    kv_bytes_per_token,
    kv_element_bytes,
    kv_layers,
    step_bytes,
    vllm_kv_bytes,
)
from services.sizing.memory_weights import allocator_slack_bytes, rotary_cache_bytes, scheme_bytes, scheme_for
from services.sizing.overheads import graphs_bytes
from services.sizing.params import tensors_of
from services.sizing.types import TextGeometry, Verdict
from services.sizing.units import GIB

DEFAULT_UTILIZATION = 0.9
DEFAULT_SEQUENCES = 256
# Memory that torch does not hold: 0.01-0.35 GiB on one GPU up to 2025; 0.29 and 0.48 on 0.28, whose snapshot counts workspaces too.
NON_TORCH_GIB = 0.06
NON_TORCH_NEW_GIB = 0.3
NEW_FROM = 20
MARGINAL_GIB = 0.15
# V1's dummy sampler: 1.04 GiB for 256 sequences x 152064 logits on 0.28.0.
SAMPLER_BYTES_PER_LOGIT_V1 = 28.7
V0_CHUNKS_ABOVE_TOKENS = 32768
V0_CHUNK_TOKENS = 2048
OLD_CHUNK_TOKENS = 512  # before 0.7
V1_CHUNK_TOKENS = 2048
LORA_RANK = 64  # the default of the notebooks (Unsloth) that serve with LoRA and don't say the rank
BIG_CARD_GIB = 70  # from here V1 defaults to 1024 sequences and steps of 8192 tokens (A100 excepted)


@dataclass(frozen=True, slots=True)
class _Run:
    """The settings of one run, defaults filled in as its version would."""

    generation: str
    minor: int | None
    sequences: int
    batch_tokens: int
    chunked: bool
    max_model_len: int
    tensor_parallel: int
    pipeline_parallel: int


def vllm_case(case: Case, geometry: TextGeometry) -> dict[str, object]:
    """weights, activation peak, available KV, KV tokens, verdict; sizes in GiB. KV figures are None where the card's size is not given."""
    run = _run(case, geometry)
    scheme = scheme_for(geometry, text(case, "quant", "bf16"))
    dtype_bytes = 4.0 if scheme.name == "fp32" else 2.0
    weights = scheme_bytes(geometry, scheme, tensor_parallel=run.tensor_parallel) + rotary_cache_bytes(geometry, dtype_bytes)
    weights += allocator_slack_bytes(geometry, scheme, run.tensor_parallel)
    if flag(case, "lora"):
        weights += lora_bytes(geometry, LORA_RANK)
    element = kv_element_bytes(_kv_dtype(case), dtype_bytes)
    activation = _activation_bytes(run, geometry, dtype_bytes, vision_profile(text(case, "model")))
    result: dict[str, object] = {"weights_gib": weights / GIB / run.pipeline_parallel, "activation_peak_gib": activation / GIB}
    result["total_peak_gib"] = (weights / run.pipeline_parallel + activation) / GIB
    total_gib = card_gib(case)
    if total_gib is None:
        return result | {"verdict": None, "kv_available_gib": None, "kv_tokens": None}
    utilization = number(case, "gpu_memory_utilization", 0.01, 1.0) or DEFAULT_UTILIZATION
    budget_gib = utilization * total_gib
    new = run.minor is not None and run.minor >= NEW_FROM
    non_torch_gib = (NON_TORCH_NEW_GIB if new else NON_TORCH_GIB) * run.tensor_parallel
    available_gib = budget_gib - weights / run.pipeline_parallel / GIB - activation / GIB - non_torch_gib
    one = _request_bytes(geometry, run, element)
    graphs_gib = 0.0 if flag(case, "enforce_eager") else graphs_bytes(run.sequences) / GIB
    return result | {
        "kv_available_gib": available_gib, "kv_tokens": kv_tokens(geometry, run, available_gib * GIB, element),
        "kv_bytes_per_token": logged_token_bytes(geometry, run, element), "kv_needed_gib": one / GIB,
        "verdict": _verdict(budget_gib, total_gib - held_by_others_gib(case), available_gib, one / GIB, graphs_gib).value,
    }  # fmt: skip


def _run(case: Case, geometry: TextGeometry) -> _Run:
    """1. What the case says. 2. V1: steps of 2048 tokens (8192 and 1024 sequences on big cards). 3. V0: the whole prompt up to 32768
    tokens, chunks above. 4. A vision model of V0's days whose version is not known is profiled un-chunked, as V0 did.
    """
    # 1
    generation, minor = _generation(text(case, "engine_version"))
    length = whole(case, "max_model_len", 1, 2**24) or geometry.max_position_embeddings
    sequences = whole(case, "max_num_seqs", 1, 65536)
    batch = whole(case, "max_num_batched_tokens", 1, 2**24)
    ranks = whole(case, "tensor_parallel", 1, 1024) or 1, whole(case, "pipeline_parallel", 1, 1024) or 1
    # 4
    unchunked_vision = vision_profile(text(case, "model")) is not None and minor is None and "V1" not in text(case, "engine_version")
    # 2
    if generation == "v1" and not unchunked_vision:
        big = (number(case, "gpu_vram_gib", 0.25, 4096) or 0) >= BIG_CARD_GIB and "a100" not in text(case, "gpu").lower()
        usual = (1024, 8192) if big else (DEFAULT_SEQUENCES, V1_CHUNK_TOKENS)
        return _Run(generation, minor, sequences or usual[0], batch or usual[1], True, length, *ranks)
    # 3
    chunked = length > V0_CHUNKS_ABOVE_TOKENS and not unchunked_vision
    chunk = OLD_CHUNK_TOKENS if generation == "old" else V0_CHUNK_TOKENS
    return _Run(generation, minor, sequences or DEFAULT_SEQUENCES, batch or (chunk if chunked else max(length, V0_CHUNK_TOKENS)), chunked,
                length, *ranks)  # fmt: skip


def _generation(version: str) -> tuple[str, int | None]:
    """("old", "v0", "v0-sampled" or "v1", minor version). Old is before 0.7 or 2025; from 0.8 V0 ran the sampler in chunked profiles too.
    A version that says V0 or V1 is believed; without a version: v1, today's.
    """
    numbered = re.search(r"\b0\.(\d+)", version)
    dated = re.search(r"(20\d\d)-(\d\d)", version)
    minor = int(numbered[1]) if numbered else None
    month = int(dated[1]) * 12 + int(dated[2]) if dated else None
    late = (minor is not None and minor >= 8) or (minor is None and month is not None and month >= 2025 * 12 + 4)
    if "V1" in version or (late and "V0" not in version):
        return "v1", minor
    if late:
        return "v0-sampled", minor
    if (minor is not None and minor < 7) or (minor is None and month is not None and month < 2025 * 12 + 1):
        return "old", minor
    return ("v0" if minor is not None or month is not None or "V0" in version else "v1"), minor


def _kv_dtype(case: Case) -> str:
    name = text(case, "kv_dtype", "auto").lower()
    return name if name in KV_BYTES else "auto"


def _activation_bytes(run: _Run, geometry: TextGeometry, dtype_bytes: float, vision: VisionProfile | None) -> float:
    """F3. V0 before 0.8 profiled chunks without the sampler; elsewhere it runs at full batch. The vision tower comes before the text model,
    and its output stays."""
    step = step_bytes(geometry, run.batch_tokens, dtype_bytes)
    per_logit = SAMPLER_BYTES_PER_LOGIT_V1 if run.generation == "v1" else SAMPLER_BYTES_PER_LOGIT
    sampler = 0.0 if run.generation in ("old", "v0") and run.chunked else per_logit * run.sequences * geometry.vocab_size
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
    if available_bytes <= 0:
        return 0
    if _by_concurrency(geometry, run):
        return int(available_bytes / logged_token_bytes(geometry, run, element_bytes))
    return int(available_bytes / logged_token_bytes(geometry, run, element_bytes) / 16) * 16


def _by_concurrency(geometry: TextGeometry, run: _Run) -> bool:
    layers = kv_layers(geometry)
    return bool(layers.window or layers.state_bytes) and run.minor is not None and run.minor >= NEW_FROM


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
    3. CUDA graphs come on top of the budget: no room for them is an out-of-memory after minutes of loading.
    4. Within 0.15 GiB of a refusal the same command was seen to pass and to fail: tight.
    """
    # 1, 2, 3
    if free < budget or available < needed or free - budget < graphs:
        return Verdict.DOES_NOT_FIT
    # 4
    return Verdict.TIGHT if available - needed < MARGINAL_GIB else Verdict.FITS


def lora_bytes(geometry: TextGeometry, rank: int) -> int:
    """The buffers that vLLM allocates for one LoRA slot: rank x (inputs + outputs) of every linear, three of vocabulary width, 16 bit.

    Worked number: Qwen3-4B at rank 64: 64 x 2 B x (36 x 57344 + 3 x 151936) = 322,584,576 bytes (0.30 GiB).
    """
    linear = sum(sum(tensor.shape[-2:]) for tensor in tensors_of(geometry) if tensor.role == "linear")
    return rank * 2 * (linear + 3 * geometry.vocab_size)
