"""F7, F8 and F9: what a text-to-image pipeline takes of its card. Sizes are bytes; a megapixel is 1024 x 1024 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.sizing.engines import DTYPE_BYTES
from services.sizing.image_activations import MEGAPIXEL, Area, decode_bytes, encode_bytes, step_bytes
from services.sizing.quant import parse_scheme
from services.sizing.types import ImageComponent, ImageGeometry, ImageWorkload, Variant

# transformers keeps one matrix of T5 (`wo`, 24 layers x 4096 x 10240 in the XXL encoder) in fp32 when the rest is fp16 (not with bf16).
T5_XXL_PARAMS = range(4_700_000_000, 4_900_000_000)
T5_XXL_WO_PARAMS = 24 * 4096 * 10240
T5_XXL_FP32_EXTRA_BYTES = 2 * T5_XXL_WO_PARAMS
# The largest matrix of a packed encoder (T5-XXL's 4096 x 10240) is unpacked to 16 bit to compute with, and copied to 32 where that is
# asked.
UNPACKED_PARAMS = 4096 * 10240

Offload = Literal["none", "model", "sequential"]


@dataclass(frozen=True, slots=True)
class ImagePeak:
    """Where the peak of a pipeline is: the weights that lie on the card then, and what the work itself takes."""

    weights_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes


def t5_extra_bytes(component_params: int, dtype: str) -> int:
    """Worked number: 24 x 4096 x 10240 x 2 = 2,013,265,920 bytes for T5-XXL in float16."""
    return T5_XXL_FP32_EXTRA_BYTES if dtype == "float16" and component_params in T5_XXL_PARAMS else 0


def component_bytes(component: ImageComponent, variant: Variant, dtype: str) -> int:
    """One component's weights: the Linear layers of what the variant quantizes in its scheme, the rest in the dtype, nothing left out.

    Worked numbers: SDXL's UNet, 2,567,463,684 parameters of which 2,232,647,680 are Linear, in NF4 with fp16 beside it:
    2,232,647,680 x 0.5625 + 334,816,004 x 2 = 1,925,496,328 bytes. T5-XXL in NF4: 4,630,511,616 x 0.5625 + 131,799,040 x 2 =
    2,868,260,864; in int8 with fp16 its `wo` stays in fp32 (8-bit bitsandbytes sums into fp16): 3,627,417,600 + 4,026,531,840 +
    263,598,080.
    """
    if component.name in variant.without:
        return 0
    scheme, dtype_bytes = parse_scheme(variant.quant), DTYPE_BYTES[dtype]
    encodes = component.role == "text_encoder"
    if scheme.family == "none" or component.role not in variant.quantized or not component.linear_params:
        return component.params * dtype_bytes + (t5_extra_bytes(component.params, dtype) if encodes else 0)
    kept = T5_XXL_WO_PARAMS if encodes and _eight_bit(variant.quant) and component.params in T5_XXL_PARAMS else 0
    kept_bytes = kept * dtype_bytes + (t5_extra_bytes(component.params, dtype) if kept else 0)
    rest = component.params - component.linear_params
    return int((component.linear_params - kept) * scheme.matrix_bytes) + kept_bytes + rest * dtype_bytes


def pipeline_bytes(image: ImageGeometry, variant: Variant, dtype: str) -> int:
    """F7: all components, exact where the catalogue knows the bytes."""
    scheme = parse_scheme(variant.quant)
    if variant.weight_bytes is not None and scheme.family == "none":
        encoders = [part for part in image.components if part.role == "text_encoder" and part.name not in variant.without]
        extra = sum(t5_extra_bytes(part.params, dtype) for part in encoders)
        return int(variant.weight_bytes * DTYPE_BYTES[dtype] / scheme.matrix_bytes) + extra
    return sum(component_bytes(component, variant, dtype) for component in image.components)


def image_peak(
    image: ImageGeometry, variant: Variant, workload: ImageWorkload, dtype: str, offload: Offload = "none", *, tiled: bool = False
) -> ImagePeak:
    """F8 and F9: the peak of one job, as our engine runs it: the VAE decodes one image after another, `tiled` in tiles of 512 px.

    1. No offload: all weights lie on the card; the largest of text encode, denoising and VAE decode comes on top.
    2. Sequential offload: layer by layer; weights hardly count, work is as before.
    3. Model offload: one component at a time; the peak is the worst of denoiser + step, VAE + decode, and the text encoders: with guidance
       the last one still lies there when the others come back for the negative prompt (SD3: T5 + CLIP-G, 12.06 GiB measured).
       What bitsandbytes has quantized to 8 bits is not moved but stays on the card all the time (diffusers skips it); 4 bits are moved
       (FLUX.1 in NF4 peaked at what it was loaded with, 12.38 GiB, with 2.4 GiB of decode beside: image-004). Our engine loads one
       component after another and moves each away when it is packed, so loading is never the peak.
    """
    decode, denoise, encode = _decode(image, workload, dtype, tiled), _denoise(image, workload, dtype), _encode(image, variant, dtype)
    # 1
    if offload == "none":
        return ImagePeak(pipeline_bytes(image, variant, dtype), max(decode, denoise, encode))
    # 2
    sizes = {role: _sizes(image, role, variant, dtype) for role in ("denoiser", "text_encoder", "vae", "other")}
    if offload == "sequential":
        return ImagePeak(max(sizes["vae"], default=0), max(decode, denoise))
    # 3
    denoiser, vae = max(sizes["denoiser"], default=0), max(sizes["vae"], default=0)
    pinned = denoiser if _eight_bit(variant.quant) else 0
    moments = (
        ImagePeak(denoiser, denoise), ImagePeak(pinned + vae, decode),
        ImagePeak(pinned + max(encoders_bytes(sizes["text_encoder"], image.uses_cfg), *sizes["other"], 0), encode),
    )  # fmt: skip
    return max(moments, key=lambda peak: peak.total_bytes)


def encoders_bytes(sizes: list[int], uses_cfg: bool) -> int:
    """The most that text encoders take under model offload: the largest; with guidance the last and the largest of those before it."""
    if len(sizes) < 2 or not uses_cfg:
        return max(sizes, default=0)
    return max(sizes[-1] + max(sizes[:-1]), *sizes)


def _denoise(image: ImageGeometry, workload: ImageWorkload, dtype: str) -> int:
    """One step of the whole batch, doubled by classifier-free guidance."""
    denoiser = next(part for part in image.components if part.role == "denoiser")
    area = _area(workload, workload.batch * (2 if image.uses_cfg else 1), DTYPE_BYTES[dtype])
    return int(step_bytes(image.pipeline, denoiser.name, denoiser.params, area, "card"))


def _encode(image: ImageGeometry, variant: Variant, dtype: str) -> int:
    """One prompt through the text encoder that takes most, with one matrix unpacked where they are packed."""
    encoders = [part.params for part in image.components if part.role == "text_encoder" and part.name not in variant.without]
    packed = "text_encoder" in variant.quantized and parse_scheme(variant.quant).family == "bnb"
    unpacked = UNPACKED_PARAMS * (6 if dtype == "float16" else DTYPE_BYTES[dtype]) if packed else 0
    return int(max((encode_bytes(params, DTYPE_BYTES[dtype], "card") for params in encoders), default=0)) + unpacked


def _decode(image: ImageGeometry, workload: ImageWorkload, dtype: str, tiled: bool) -> int:
    """The VAE, in float32 where the pipeline upcasts it (its weights take twice the room then, too)."""
    params = next((part.params for part in image.components if part.role == "vae"), 0)
    area = _area(workload, workload.batch, 4 if image.vae_upcasts else DTYPE_BYTES[dtype])
    return int(decode_bytes(params, area, "card", sliced=True, tiled=tiled)) + params * int(area.dtype_bytes - DTYPE_BYTES[dtype])


def _eight_bit(quant: str) -> bool:
    scheme = parse_scheme(quant)
    return scheme.family == "bnb" and scheme.matrix_bytes >= 1


def _area(workload: ImageWorkload, images: int, dtype_bytes: int) -> Area:
    return Area(workload.width_px * workload.height_px / MEGAPIXEL, images, dtype_bytes)


def _sizes(image: ImageGeometry, role: str, variant: Variant, dtype: str) -> list[int]:
    return [component_bytes(part, variant, dtype) for part in image.components if part.role == role]
