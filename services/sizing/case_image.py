"""A text-to-image run as a case: F7 to F9, with quantization described in words ("quanto fp8 transformer + TE3", "fp16 + vae slicing")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.sizing.case_fields import Case, card_gib, held_by_others_gib, text, whole
from services.sizing.case_geometry import CaseError, CasePipeline, image_pipeline
from services.sizing.gguf_mix import BITS
from services.sizing.memory_image import DENOISE_BYTES_PER_MEGAPIXEL, ENCODE_BYTES, MEGAPIXEL, decode_area_bytes
from services.sizing.types import Verdict
from services.sizing.units import GIB

CUDA_CONTEXT_GIB = 0.45
_DENOISERS = ("transformer", "unet")
_ENCODERS = ("t5", "clip", "clip_g", "open_clip_h")
# Bytes per quantized parameter by how the words call it; the first match wins.
_METHODS: tuple[tuple[str, float], ...] = (
    (r"nf4|bnb-4bit", 0.5625), (r"fp4_|fp4\b", 0.5), (r"fp6", 0.75), (r"int4|uint4|4-?bit", 0.5 + 4 / 128), (r"int2", 0.25 + 4 / 128),
    (r"int8|fp8|float8|8-?bit", 1.0),
)  # fmt: skip
_GGUF = re.compile(r"\b(i?q\d_(?:k|\d|nl|xs))(?:_[sml])?\b")
# The reference scripts (txt2img.py of Stable Diffusion 1 and 2) make three samples at once unless told otherwise.
_REFERENCE_SAMPLES = 3
# T5-XXL: its embedding is never quantized, and bitsandbytes leaves `wo` (24 x 4096 x 10240) in fp32, torchao in 16 bit.
_T5_EMBEDDING, _T5_WO = 32128 * 4096, 24 * 4096 * 10240
# stable-diffusion.cpp's VAE buffer: 2560 bytes a pixel with direct convolution, 7680 without, 176 MiB tiled (all logged).
_SDCPP_DIRECT, _SDCPP_PLAIN, _SDCPP_TILED = 2560, 7680, 176 * 2**20


@dataclass(frozen=True, slots=True)
class _Job:
    """What is asked of the pipeline, read from the case's words."""

    megapixels: float
    batch: int
    dtype_bytes: float
    words: str
    engine: str
    offload: str


def image_case(case: Case) -> dict[str, object]:
    """weights (all components), total peak and verdict, in GiB; KV figures have no meaning."""
    pipeline = image_pipeline(text(case, "model"))
    job = _job(case)
    sizes = {name: _component_bytes(name, params, job) for name, params in pipeline.components.items() if _loaded(name, job)}
    weights_gib = sum(sizes.values()) / GIB
    result: dict[str, object] = {"weights_gib": weights_gib, "kv_available_gib": None, "kv_tokens": None}
    if job.engine.startswith("stable-diffusion.cpp"):
        denoiser = sum(size for name, size in sizes.items() if name in _DENOISERS)
        kept = denoiser if "clip on cpu" in job.offload else sum(size for name, size in sizes.items() if name != "vae")
        result["weights_gib"] = kept / GIB
        peak = kept + _sdcpp_decode_bytes(job)
    else:
        peak = _peak_bytes(pipeline, sizes, job)
    result["activation_peak_gib"] = max(0.0, peak / GIB - weights_gib) if job.megapixels else None
    result["total_peak_gib"] = peak / GIB if job.megapixels else None
    result["verdict"] = _verdict(case, peak / GIB)
    return result


def _job(case: Case) -> _Job:
    words = text(case, "quant", "fp16").lower()
    resolution = text(case, "resolution", "1024x1024").lower()
    match = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})(?:\s*[x×]\s*\d+)?\s*", resolution)
    if match is None and resolution not in ("n/a", ""):
        raise CaseError(f'"resolution" is "{resolution[:40]}"; write it like 1024x1024.')
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    fp32 = bool(re.search(r"\bfp?32\b|full precision|--precision full", words))
    engine, offload = text(case, "engine").lower(), text(case, "offload", "none").lower()
    batch = whole(case, "batch_size", 1, 4096) or 1
    if "reference" in engine and batch == 1:
        batch = _REFERENCE_SAMPLES
    return _Job(width * height / MEGAPIXEL, batch, 4.0 if fp32 else 2.0, words, engine, offload)


def _loaded(name: str, job: _Job) -> bool:
    if name in _ENCODERS and "precomputed" in job.words:
        return False
    if name == "t5" and re.search(r"(?:t5|te3)\s*(?:dropped|removed|off)|no t5|without t5", job.words):
        return False
    return not (name == "safety_checker" and ("no safety" in job.words or "diffusers" not in job.engine))


def _component_bytes(name: str, params: int, job: _Job) -> float:
    """A component that the words name as quantized takes the method's bytes, everything else the dtype's."""
    method = _method(job.words)
    if method is None or name not in _targets(job.words):
        return params * job.dtype_bytes
    if name != "t5":
        return params * method
    kept_dtype = 4.0 if "bnb" in job.words or "bitsandbytes" in job.words else 2.0 if "torchao" in job.words else method
    return (params - _T5_EMBEDDING - _T5_WO) * method + _T5_EMBEDDING * 2 + _T5_WO * kept_dtype


def _method(words: str) -> float | None:
    gguf = _GGUF.search(words)
    if gguf:
        kind = gguf[1].upper()
        return BITS[kind][0] / 8 if kind in BITS else None
    return next((size for pattern, size in _METHODS if re.search(pattern, words)), None)


def _targets(words: str) -> set[str]:
    """Which components the words name: "transformer", "T5" or "TE3", "TE1", "TE2", "text encoder"; none named: the denoiser."""
    found: set[str] = set()
    if re.search(r"transformer|unet|denoiser", words):
        found |= set(_DENOISERS)
    if re.search(r"text[ -_]encoder", words):
        found |= set(_ENCODERS)
    for word, name in (("te1", "clip"), ("te2", "clip_g"), ("te3", "t5")):
        if word in words:
            found.add(name)
    # "bf16 T5" beside a quantized transformer means that T5 is not quantized.
    if "t5" in words and not re.search(r"(?:bf16|fp16) t5", words):
        found.add("t5")
    return found or set(_DENOISERS)


def _peak_bytes(pipeline: CasePipeline, sizes: dict[str, float], job: _Job) -> float:
    """F8 and F9: see memory_image.image_peak; slicing decodes one image at a time, a tiny autoencoder hardly counts."""
    decode_dtype = 4.0 if pipeline.vae_upcasts else job.dtype_bytes
    one_at_a_time = "slicing" in job.words
    decode = float(decode_area_bytes(job.megapixels * (1 if one_at_a_time else job.batch), decode_dtype))
    if re.search(r"tiling|tiled", job.words):
        decode = float(decode_area_bytes(min(job.megapixels, 0.25), decode_dtype))
    if re.search(r"tiny auto|taesd", job.words):
        decode = 0.0
    denoise = DENOISE_BYTES_PER_MEGAPIXEL * job.megapixels * job.batch * (2 if pipeline.uses_cfg else 1) * job.dtype_bytes / 2
    if "reference" in job.engine or "no xformers" in job.words:
        denoise += _naive_attention_bytes(job)
    vae = sizes.get("vae", 0.0)
    if "sequential" in job.offload or "lowvram" in job.offload:
        return vae + max(decode, denoise)
    if "model" in job.offload or "medvram" in job.offload:
        stays = _pinned(sizes, job)
        pinned = sum(sizes[name] for name in stays)
        movable = [size for name, size in sizes.items() if name in _ENCODERS and name not in stays]
        denoising = pinned + denoise + sum(sizes.get(name, 0.0) for name in _DENOISERS if name not in stays)
        return max(denoising, pinned + max(movable, default=0.0) + ENCODE_BYTES, pinned + vae + decode)
    return sum(sizes.values()) + max(decode, denoise)


def _pinned(sizes: dict[str, float], job: _Job) -> set[str]:
    """bitsandbytes modules are not moved by offload: they stay on the card."""
    quantized = _targets(job.words) if re.search(r"bnb|bitsandbytes", job.words) else set()
    return quantized & set(sizes)


def _naive_attention_bytes(job: _Job) -> float:
    """Scores and their softmax of the widest attention layer (8 heads at 1/8 resolution, both halves of the guidance) in fp32."""
    tokens = job.megapixels * MEGAPIXEL / 64
    return 2 * 2 * job.batch * 8 * tokens * tokens * 4.0


def _sdcpp_decode_bytes(job: _Job) -> float:
    pixels = job.megapixels * MEGAPIXEL
    if re.search(r"tiling|tiled", job.words + job.offload):
        return float(min(_SDCPP_TILED, pixels * _SDCPP_PLAIN))
    return pixels * (_SDCPP_DIRECT if "direct" in job.words + job.offload else _SDCPP_PLAIN)


def _verdict(case: Case, peak_gib: float) -> str | None:
    total_gib = card_gib(case)
    if total_gib is None:
        return None
    spare = total_gib - held_by_others_gib(case) - CUDA_CONTEXT_GIB - peak_gib
    if spare < 0:
        return Verdict.DOES_NOT_FIT.value
    return (Verdict.TIGHT if spare < 0.06 * peak_gib else Verdict.FITS).value
