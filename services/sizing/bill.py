"""One memory bill: what a variant, run by a chosen engine at a workload, takes of its card and of the host."""

from __future__ import annotations

from services.sizing.engines import DTYPE_BYTES
from services.sizing.memory_image import component_bytes, image_peak
from services.sizing.memory_lora import llamacpp_lora_bytes, vllm_lora_bytes
from services.sizing.memory_text import (
    VLLM_BLOCK_TOKENS,
    VLLM_CPU_BLOCK_TOKENS,
    kv_element_bytes,
    llamacpp_compute_bytes,
    llamacpp_encoder_bytes,
    llamacpp_kv_bytes,
    reads_whole,
    vllm_activation_bytes,
    vllm_kv_bytes,
)
from services.sizing.memory_weights import allocator_slack_bytes, llamacpp_bytes, rotary_cache_bytes, safetensors_bytes
from services.sizing.overheads import OVERHEADS, graphs_bytes
from services.sizing.quant import parse_scheme
from services.sizing.types import Engine, EngineChoice, HostNeed, ImageWorkload, MemoryBill, ModelSpec, TextWorkload, Variant, Workload
from services.sizing.units import GIB

VULKAN = "llamacpp-vulkan"
# One image of the largest size through a vision tower (Qwen2.5-VL-7B in vLLM: 2.71 GiB activation peak measured with one sequence).
VISION_BYTES = int(2.71 * GIB)


def make_bill(model: ModelSpec, variant: Variant, choice: EngineChoice, workload: Workload) -> MemoryBill:
    """The bill, line by line.

    The KV line is the whole pool: every sequence at full context, never less (no paging is counted on), so `kv_cache_bytes` is what an
    engine may be told to allocate. The reserve is the stated margin of error of this estimate. Raises ValueError when the workload is of
    the other kind than the model.
    """
    if model.image is not None and isinstance(workload, ImageWorkload):
        peak = image_peak(model.image, variant, workload, choice.dtype, choice.offload, tiled=choice.vae_tiling)
        return _with_overhead(choice, peak.weights_bytes, 0, peak.activation_bytes, 0)
    if model.text is not None and isinstance(workload, TextWorkload):
        if choice.engine is Engine.LLAMACPP:
            return _llamacpp_bill(model, variant, choice, workload)
        return _vllm_bill(model, variant, choice, workload)
    raise ValueError(f"{model.id} is a {model.kind} model; a {workload.kind} workload can't be sized for it.")


def _vllm_bill(model: ModelSpec, variant: Variant, choice: EngineChoice, workload: TextWorkload) -> MemoryBill:
    assert model.text is not None
    dtype_bytes = DTYPE_BYTES[choice.dtype]
    on_cpu = choice.environment == "vllm-cpu"
    weights = safetensors_bytes(model.text, variant, dtype_bytes) + rotary_cache_bytes(model.text, dtype_bytes)
    if not on_cpu:
        weights += allocator_slack_bytes(model.text, parse_scheme(variant.quant), whole_blocks=True)
    kv = 0
    if model.kind == "chat":
        kv = vllm_kv_bytes(
            model.text, workload.context_tokens, workload.sequences, kv_element_bytes(choice.kv_dtype, dtype_bytes),
            block_tokens=VLLM_CPU_BLOCK_TOKENS if on_cpu else VLLM_BLOCK_TOKENS,
        )  # fmt: skip
    graphs = 0 if choice.enforce_eager or on_cpu else graphs_bytes(workload.sequences)
    activation = vllm_activation_bytes(model.text, workload, dtype_bytes) + (VISION_BYTES if model.text.vision_params else 0)
    return _with_overhead(choice, weights, kv, activation, graphs, vllm_lora_bytes(model.text, workload.lora_slots, workload.lora_rank))


def _llamacpp_bill(model: ModelSpec, variant: Variant, choice: EngineChoice, workload: TextWorkload) -> MemoryBill:
    assert model.text is not None
    weights, _ = llamacpp_bytes(model.text, variant, on_gpu=choice.environment != "llamacpp-cpu")
    kv = llamacpp_kv_bytes(model.text, workload.context_tokens, workload.sequences, kv_element_bytes(choice.kv_dtype, 2))
    # Through Vulkan llama.cpp asks the driver whether flash attention works, so the bill must hold without it.
    compute = llamacpp_compute_bytes(
        model.text, workload.context_tokens * workload.sequences, flash_attention=choice.environment != VULKAN
    )
    if reads_whole(model):
        compute = max(compute, llamacpp_encoder_bytes(model.text, workload.context_tokens, flash_attention=choice.environment != VULKAN))
    return _with_overhead(choice, weights, kv, compute, 0, llamacpp_lora_bytes(model.text, workload.lora_slots, workload.lora_rank))


def _with_overhead(choice: EngineChoice, weights: int, kv: int, activation: int, graphs: int, lora: int = 0) -> MemoryBill:
    own = OVERHEADS[choice.environment]
    reserve = own.margin_bytes + int(own.margin_share * (weights + lora + kv) + own.activation_share * activation)
    return MemoryBill(weights, kv, activation, own.card_bytes, graphs, reserve, lora)


def host_need(model: ModelSpec, variant: Variant, choice: EngineChoice, bill: MemoryBill) -> HostNeed:
    """Host RAM while loading and serving, and disk for the weights.

    On a CPU card the bill is host RAM. On a GPU: the process tree, plus what stays on the host: llama.cpp's token table, the waiting
    components of an offloaded pipeline, or the largest component while a pipeline loads. Weights that are mapped or streamed are not
    counted: the system may drop those pages. What is quantized while loading is mapped as it is stored and packed layer by layer.
    """
    own = OVERHEADS[choice.environment]
    disk = variant.file_bytes or variant.weight_bytes or _stored_bytes(model, variant) or bill.weights_bytes
    if choice.environment.endswith("-cpu"):
        return HostNeed(bill.total_bytes, disk, bill.total_bytes)
    if choice.engine is Engine.LLAMACPP and model.text is not None:
        resident = own.host_bytes + llamacpp_bytes(model.text, variant, on_gpu=True)[1]
        return HostNeed(resident, disk, resident)
    if model.image is not None:
        sizes = [component_bytes(part, variant, choice.dtype) for part in model.image.components]
        peak = own.host_bytes + (max(sizes, default=0) if choice.offload == "none" else sum(sizes))
        return HostNeed(peak, disk, own.host_bytes if choice.offload == "none" else peak)
    return HostNeed(own.host_bytes, disk, own.host_bytes)


def _stored_bytes(model: ModelSpec, variant: Variant) -> int | None:
    """The files of an image variant that is quantized while loading: those of the model's unquantized variant, without what is left out."""
    if model.image is None:
        return None
    whole = next((scheme for scheme in (parse_scheme(other.quant) for other in model.variants) if scheme.family == "none"), None)
    if whole is None:
        return None
    return int(sum(part.params for part in model.image.components if part.name not in variant.without) * whole.matrix_bytes)
