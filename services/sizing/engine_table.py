"""Which engines a kind of card can run. One table; the first row that matches a card is its row.

A row names environments (requirements/<environment>.txt) and container images by key. `vllm`, `llamacpp` and `diffusion` are None where
the engine can't run there, and then the matching `no_*` sentence says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.sizing.types import Card, CardSpec

Capability = tuple[int, int]
_ANY: Capability = (99, 9)


@dataclass(frozen=True, slots=True)
class EngineOn:
    """One engine on one kind of card: environment, image, dtypes in order of preference, and the sentence that goes with the choice."""

    environment: str
    image: str | None
    dtypes: tuple[str, ...]
    why: str
    attention_backend: str | None = None


@dataclass(frozen=True, slots=True)
class CardKind:
    """A row. `keys` are catalogue keys (those cards, unless probed as unlocked), `words` are words of the driver's name (for cards
    that are in no catalogue); without either, lowest <= capability <= highest decides.
    """

    name: str
    lowest: Capability = (0, 0)
    highest: Capability = (0, 0)
    gfx: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    vllm: EngineOn | None = None
    no_vllm: str = ""
    vllm_quants: frozenset[str] = frozenset()
    llamacpp: EngineOn | None = None
    no_llamacpp: str = ""
    diffusion: EngineOn | None = None
    no_diffusion: str = ""
    bnb: bool = True
    prefer_llamacpp: str = ""
    sources: str = ""


_OLD_VLLM = "vLLM's wheels have no kernels below compute capability 7.5"
_CUDA12 = EngineOn("llamacpp-cuda12", "llamacpp-cuda12", ("auto",), "llama.cpp's CUDA 12 build still holds kernels for this card.")
_CUDA13 = EngineOn("llamacpp-cuda13", "llamacpp-cuda13", ("auto",), "llama.cpp's CUDA 13 build runs on compute capability 7.5 and above.")
_VULKAN = EngineOn("llamacpp-vulkan", "llamacpp-vulkan", ("auto",), "llama.cpp runs here through Vulkan (Mesa RADV).")
_ROCM = EngineOn("llamacpp-rocm", "llamacpp-rocm", ("auto",), "llama.cpp's ROCm build targets gfx1030 to gfx1036.")
_CU126_FP32 = EngineOn(
    "diffusion-cu126", "diffusion-cu126", ("float32", "float16"),
    "PyTorch holds kernels for this card only in its cu126 wheels; fp16 arithmetic is 1/64 of fp32 on it, so it computes in float32.",
)  # fmt: skip
_CMP_FP32 = "Mining cards (CMP) are throttled in fp16 and tensor work at stock, so images are computed in float32."
_NO_AMD_TORCH = "There is no packaged PyTorch for this AMD card in rigserve, so it can't run diffusers"
_TURING_QUANTS = frozenset({"none", "awq", "gptq", "bnb", "fp8", "int8"})
_TURING_DIFFUSION = EngineOn("diffusion-cuda", "diffusion-cuda", ("float16",), "Turing with tensor cores: float16.")
_FP32_ONLY = EngineOn(
    "diffusion-cuda", "diffusion-cuda", ("float32",),
    "Turing without tensor cores gives NaN and black images in fp16 (pytorch#58123, diffusers#2153): float32 only.",
)  # fmt: skip
_TURING_VLLM = EngineOn("vllm-cuda", "vllm-cuda", ("float16",), "Turing has no bf16: vLLM runs with --dtype half.", "TRITON_ATTN")
_AMPERE_VLLM = EngineOn("vllm-cuda", "vllm-cuda", ("bfloat16", "float16"), "Ampere or newer: bf16, FlashAttention 2, Marlin.", "FLASH_ATTN")
_CMP_STOCK = ("CMP 40HX", "CMP 50HX", "CMP 70HX", "CMP 90HX", "CMP 170HX 8GB", "CMP 170HX 10GB")
_CMP_SLOW = "a stock CMP card is throttled in the tensor work that vLLM lives on; llama.cpp's integer and mul+add kernels are not"

KINDS: tuple[CardKind, ...] = (
    CardKind(
        "CMP on Volta", keys=("CMP 100-200", "CMP 100-210"), no_vllm=_OLD_VLLM, llamacpp=_CUDA12,
        diffusion=EngineOn("diffusion-cu126", "diffusion-cu126", ("float32",), _CMP_FP32),
        sources="duggasco/CMP100-210: fp32 full, dp4a full, tensor 1/16; engines table sections 1, 3, 8",
    ),
    CardKind(
        "CMP on Turing without tensor cores", keys=("CMP 30HX",), vllm=_TURING_VLLM, vllm_quants=_TURING_QUANTS, llamacpp=_CUDA12,
        diffusion=_FP32_ONLY, prefer_llamacpp="it has no tensor cores, and no vLLM run on it was found",
        sources="ComfyUI's fp16 list names CMP 30HX; engines table sections 1, 7",
    ),
    CardKind(
        "CMP at stock", keys=_CMP_STOCK, vllm=_TURING_VLLM, vllm_quants=_TURING_QUANTS, llamacpp=_CUDA12,
        diffusion=EngineOn("diffusion-cuda", "diffusion-cuda", ("float32",), _CMP_FP32), prefer_llamacpp=_CMP_SLOW,
        sources="engines table section 8: CMP 40HX SD 1.5 fp16 0.46-0.99 it/s, fp32 3.4; 50HX, 90HX, 170HX FMA 8-16 times slow",
    ),
    CardKind(
        "Kepler", highest=(4, 9), no_vllm=_OLD_VLLM, no_llamacpp="llama.cpp's CUDA 12 build starts at compute capability 5.0",
        no_diffusion="PyTorch's oldest wheels start at compute capability 5.0", bnb=False, sources="llama.cpp CMake arch list",
    ),
    CardKind(
        "Maxwell", lowest=(5, 0), highest=(5, 9), no_vllm=_OLD_VLLM, llamacpp=_CUDA12, diffusion=_CU126_FP32, bnb=False,
        sources="PyTorch cu126 arch list; bitsandbytes needs 6.0",
    ),
    CardKind(
        "Pascal", lowest=(6, 0), highest=(6, 9), no_vllm=_OLD_VLLM, llamacpp=_CUDA12, diffusion=_CU126_FP32,
        sources="vllm#19542, pytorch/.ci build_cuda.sh, bitsandbytes build matrix (NF4 from 6.0); engines table sections 1, 3-7",
    ),
    CardKind(
        "Volta", lowest=(7, 0), highest=(7, 4), no_vllm=_OLD_VLLM + " (CUDA 12.8 and later)", llamacpp=_CUDA12,
        diffusion=EngineOn("diffusion-cu126", "diffusion-cu126", ("float16",), "PyTorch holds Volta kernels only in its cu126 wheels."),
        sources="vllm#18818, vllm PR 39878; engines table sections 1, 3, 4",
    ),
    CardKind(
        "Turing without tensor cores",
        words=("1630", "1650", "1660", "T400", "T500", "T550", "T600", "T1000", "T1200", "T2000", "MX450", "MX550"),
        vllm=_TURING_VLLM, vllm_quants=_TURING_QUANTS, llamacpp=_CUDA13, diffusion=_FP32_ONLY,
        prefer_llamacpp="without tensor cores llama.cpp's integer kernels are the faster ones",
        sources="ComfyUI list of cards without usable fp16; pytorch#58123; vLLM 0.28 ran Qwen2.5-0.5B on a GTX 1650",
    ),
    CardKind(
        "Turing", lowest=(7, 5), highest=(7, 9), vllm=_TURING_VLLM, vllm_quants=_TURING_QUANTS, llamacpp=_CUDA13,
        diffusion=_TURING_DIFFUSION, sources="vllm platforms/cuda.py, vllm PR 45375, vllm quantization table; engines table section 4",
    ),
    CardKind(
        "Ampere", lowest=(8, 0), highest=(8, 8), vllm=_AMPERE_VLLM, vllm_quants=_TURING_QUANTS | {"mxfp4", "nvfp4"}, llamacpp=_CUDA13,
        diffusion=EngineOn("diffusion-cuda", "diffusion-cuda", ("float16", "bfloat16"), "Ampere computes in 16 bit."),
        sources="vllm quantization table, vllm#23203 (MXFP4 from 8.0); engines table sections 1, 4",
    ),
    CardKind(
        "Ada and newer", lowest=(8, 9), highest=_ANY, vllm=_AMPERE_VLLM, vllm_quants=_TURING_QUANTS | {"mxfp4", "nvfp4"}, llamacpp=_CUDA13,
        diffusion=EngineOn("diffusion-cuda", "diffusion-cuda", ("float16", "bfloat16"), "Ada or newer computes in 16 bit."),
        sources="vllm quantization table; engines table section 4",
    ),
    CardKind(
        "RDNA 2", gfx=("gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036"),
        no_vllm="vLLM's ROCm build has no packaged environment in rigserve; officially it covers only gfx1030 of this family",
        llamacpp=_ROCM, no_diffusion=_NO_AMD_TORCH, bnb=False, sources="llama.cpp ROCm image targets; engines table sections 4, 5, 9",
    ),
    CardKind(
        "an AMD card without ROCm kernels", gfx=("gfx",), no_vllm="vLLM's ROCm build has no kernels for this AMD card", llamacpp=_VULKAN,
        no_diffusion=_NO_AMD_TORCH, bnb=False,
        sources="ROCm 7 and llama.cpp's ROCm image leave out gfx803, gfx900, gfx906; Vulkan beats ROCm on RX 5700 XT (llama.cpp#13324)",
    ),
)  # fmt: skip


def capability_of(card: Card, spec: CardSpec | None) -> Capability | None:
    """(major, minor) from the driver, else from the catalogue; None when neither knows."""
    text = card.compute_capability or (spec.compute_capability if spec and spec.vendor == "nvidia" else None)
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def kind_of(card: Card, spec: CardSpec | None) -> CardKind | None:
    """The row of a GPU; None when nothing is known that a row could match (then no engine is chosen, rather than a wrong one)."""
    return next((kind for kind in KINDS if _matches(kind, card, spec)), None)


def _matches(kind: CardKind, card: Card, spec: CardSpec | None) -> bool:
    if kind.keys:
        return spec is not None and spec.key in kind.keys and card.profile != "unlocked"
    if kind.words:
        return card.vendor == "nvidia" and not set(kind.words).isdisjoint(card.name.split())
    if kind.gfx:
        gfx = card.gfx or (spec.compute_capability if spec else None) or "gfx"
        return card.vendor == "amd" and gfx.startswith(kind.gfx)
    capability = capability_of(card, spec)
    return card.vendor == "nvidia" and capability is not None and kind.lowest <= capability <= kind.highest
