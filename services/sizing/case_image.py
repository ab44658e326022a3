"""A text-to-image run as a case: F7 to F9, with quantization described in words ("quanto fp8 transformer + TE3", "fp16 + vae slicing")."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from services.sizing.case_fields import Case, card_gib, held_by_others_gib, pixels, text, whole
from services.sizing.case_geometry import CasePipeline, image_pipeline
from services.sizing.gguf_mix import BITS
from services.sizing.image_activations import MEGAPIXEL, Area, Measure, decode_bytes, encode_bytes, fp8_kept_share, qkv_params, step_bytes
from services.sizing.memory_image import encoders_bytes, t5_extra_bytes
from services.sizing.types import Verdict
from services.sizing.units import GIB

CUDA_CONTEXT_GIB = 0.45
_DENOISERS = ("transformer", "unet")
_ENCODERS = ("clip", "clip_g", "open_clip_h", "t5", "llm")  # in the order that the pipelines ask them
_SDCPP = re.compile(r"stable[-_ ]?diffusion\.?cpp|\bsd[.-]?(?:cpp|cli)")
_TINY_VAE = 2_445_063  # parameters of the tiny autoencoder (taesd)
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
    dtype: str


def image_case(case: Case) -> dict[str, object]:
    """weights (all components), total peak and verdict, in GiB; KV figures have no meaning."""
    pipeline = image_pipeline(text(case, "model"))
    job = _job(case, pipeline)
    sizes = {name: _component_bytes(name, params, job) for name, params in pipeline.components.items() if _loaded(name, job)}
    weights_gib = sum(sizes.values()) / GIB
    result: dict[str, object] = {"weights_gib": weights_gib, "kv_available_gib": None, "kv_tokens": None}
    if _SDCPP.search(job.engine):
        denoiser = sum(size for name, size in sizes.items() if name in _DENOISERS)
        kept = denoiser if "clip on cpu" in job.offload else sum(size for name, size in sizes.items() if name != "vae")
        result["weights_gib"] = kept / GIB
        peak = needed = kept + _sdcpp_decode_bytes(job)
    else:
        peak = _peak_bytes(pipeline, sizes, job, "live")
        needed = _peak_bytes(pipeline, sizes, job, "card")
    result["activation_peak_gib"] = max(0.0, peak / GIB - weights_gib) if job.megapixels else None
    result["total_peak_gib"] = peak / GIB if job.megapixels else None
    result["verdict"] = _verdict(case, needed / GIB)
    return result


def _job(case: Case, pipeline: CasePipeline) -> _Job:
    words = text(case, "quant", "fp16").lower()
    width, height = pixels(case) or (0, 0)
    fp32 = bool(re.search(r"\bfp?32\b|full precision|--precision full", words))
    engine, offload = text(case, "engine").lower(), text(case, "offload", "none").lower()
    batch = whole(case, "batch_size", 1, 4096) or 1
    if "reference" in engine and batch == 1:
        batch = _REFERENCE_SAMPLES
    dtype = "float32" if fp32 else "bfloat16" if "bf16" in words else "float16" if "fp16" in words else pipeline.dtype
    return _Job(width * height / MEGAPIXEL, batch, 4.0 if fp32 else 2.0, words, engine, offload, dtype)


def _loaded(name: str, job: _Job) -> bool:
    if name == "t5" and re.search(r"(?:t5|te3)\s*(?:dropped|removed|off)|no t5|without t5", job.words):
        return False
    return not (name == "safety_checker" and ("no safety" in job.words or "diffusers" not in job.engine))


def _component_bytes(name: str, params: int, job: _Job) -> float:
    """A component that the words name as quantized takes the method's bytes, everything else the dtype's."""
    method = _method(job.words)
    if method is None or name not in _targets(job.words):
        return params * job.dtype_bytes + (t5_extra_bytes(params, job.dtype) if name == "t5" else 0)
    if "layerwise" in job.words and name in _DENOISERS:
        kept = fp8_kept_share(name, params)
        return params * ((1 - kept) * method + kept * job.dtype_bytes)
    if name != "t5":
        twice = qkv_params(name, params) if "fused qkv" in job.words and name in _DENOISERS else 0
        return (params + twice) * method
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


def _peak_bytes(pipeline: CasePipeline, sizes: dict[str, float], job: _Job, measure: Measure) -> float:
    """F8 and F9: see memory_image.image_peak, with the ways to save memory that the words name.

    1. No offload: everything lies on the card, and the larger of step and decode comes on top.
    2. Sequential: the VAE stands for the few layers that lie there.
    3. Model: the worst of denoiser + step, VAE + decode, and the text encoders.
    4. Quantized on the card: the 16-bit weights lay there first.
    """
    denoise, decode, encode = _work_bytes(pipeline, job, measure)
    vae = sizes.get("vae", 0.0)
    if "sequential" in job.offload or "lowvram" in job.offload:  # 2
        return vae + max(decode, denoise)
    if "model" in job.offload or "medvram" in job.offload:  # 3
        loaded = sum(sizes[name] for name in sizes if name in _quantized_at_load(job))
        pinned_names = _quantized_at_load(job) if (_method(job.words) or 0.0) >= 1 else set()
        pinned = sum(sizes[name] for name in sizes if name in pinned_names)
        encoders = [int(sizes[name]) for name in _ENCODERS if name in sizes and name not in pinned_names]
        denoiser = sum(sizes[name] for name in _DENOISERS if name in sizes and name not in pinned_names)
        encoding = encoders_bytes(encoders, pipeline.uses_cfg) + encode
        return max(loaded, pinned + denoiser + denoise, pinned + encoding, pinned + vae + decode)
    whole = sum(sizes.values()) + max(decode, denoise)  # 1
    if re.search(r"on[- ](?:the )?(?:card|gpu|device|the fly)", job.words):  # 4
        whole = max(whole, sum(params * job.dtype_bytes for name, params in pipeline.components.items() if name in sizes))
    return whole


def _work_bytes(pipeline: CasePipeline, job: _Job, measure: Measure) -> tuple[float, float, float]:
    """What a step, the decode and one prompt's encode take beside weights."""
    area = Area(job.megapixels, job.batch, job.dtype_bytes)
    kind = next((name for name in _DENOISERS if name in pipeline.components), "transformer")
    passes = replace(area, images=job.batch * (2 if pipeline.uses_cfg else 1))
    denoise = step_bytes("", kind, pipeline.components.get(kind, 1), passes, measure)
    if "reference" in job.engine or "no xformers" in job.words:
        denoise += _naive_attention_bytes(job)
    vae = _TINY_VAE if re.search(r"tiny auto|taesd", job.words) else pipeline.components.get("vae", 1)
    upcast = replace(area, dtype_bytes=4.0 if pipeline.vae_upcasts and vae != _TINY_VAE else job.dtype_bytes)
    tiled = bool(re.search(r"tiling|tiled", job.words))
    decode = decode_bytes(vae, upcast, measure, sliced="slicing" in job.words, tiled=tiled)
    decode += vae * (upcast.dtype_bytes - job.dtype_bytes)  # its weights, upcast
    encoders = [params for name, params in pipeline.components.items() if name in _ENCODERS]
    encode = max((encode_bytes(params, job.dtype_bytes, measure) for params in encoders), default=0.0)
    return denoise, decode, encode


def _quantized_at_load(job: _Job) -> set[str]:
    """bitsandbytes quantizes on the card, so these lie there together once; offload moves the 4-bit ones away again, not the 8-bit ones."""
    return _targets(job.words) if re.search(r"bnb|bitsandbytes", job.words) else set()


def _naive_attention_bytes(job: _Job) -> float:
    """Scores of the widest attention layer (8 heads at 1/8 resolution, both halves of the guidance).

    In fp32 twice 4 bytes (scores, softmax); under autocast 2 for the scores, 4 for their fp32 copy and 4 for its softmax. Worked number:
    512 x 512, 3 samples: 6 x 8 x 4096^2 scores are the 1.5 GiB in 16 bit that a log asks for (image-130), 7.5 GiB in all.
    """
    tokens = job.megapixels * MEGAPIXEL / 64
    return 2 * job.batch * 8 * tokens * tokens * (8.0 if "full" in job.words else 10.0)


def _sdcpp_decode_bytes(job: _Job) -> float:
    pixels = job.megapixels * MEGAPIXEL
    if re.search(r"tiling|tiled", job.words + job.offload):
        return float(min(_SDCPP_TILED, pixels * _SDCPP_PLAIN))
    return pixels * (_SDCPP_DIRECT if "direct" in job.words + job.offload else _SDCPP_PLAIN)


def _verdict(case: Case, needed_gib: float) -> str | None:
    total_gib = card_gib(case)
    if total_gib is None:
        return None
    spare = total_gib - held_by_others_gib(case) - CUDA_CONTEXT_GIB - needed_gib
    if spare < 0:
        return Verdict.DOES_NOT_FIT.value
    return (Verdict.TIGHT if spare < 0.06 * needed_gib else Verdict.FITS).value
