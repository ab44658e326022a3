"""F7, F8 and F9: what a text-to-image pipeline takes. Sizes are bytes; a megapixel is 1024 x 1024 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.sizing.quant import parse_scheme
from services.sizing.types import ImageComponent, ImageGeometry, ImageWorkload, Variant
from services.sizing.units import GIB

MEGAPIXEL = 1024 * 1024
# VAE decode: the widest moment of the decoder that SD 1.5, SDXL, SD3, PixArt and FLUX share (256 channels in, normed, activated, 128 out at
# full resolution) takes 1.9 GiB a megapixel in 16 bit and twice that in fp32 or with SDXL's upcast; convolutions want up to 0.5 GiB of
# workspace. Measured: FLUX.1 at batch 1, 4, 8, 16: 2.41, 8.05, 16.07, 30.1 GiB; SDXL x 4 fp32: 15.2 (image-025 to -028, -058).
DECODE_BYTES_PER_MEGAPIXEL = 1.9 * GIB
DECODE_WORKSPACE_BYTES = 0.5 * GIB
# One denoiser pass in 16 bit (image-002); classifier-free guidance runs two at once.
DENOISE_BYTES_PER_MEGAPIXEL = 1.1 * GIB
ENCODE_BYTES = 0.3 * GIB
# transformers keeps one matrix of T5 (`wo`, 24 layers x 4096 x 10240 in the XXL encoder) in fp32 when the rest is fp16: 2 bytes more each.
T5_XXL_LEAST_PARAMS = 4_000_000_000
T5_XXL_FP32_EXTRA_BYTES = 24 * 4096 * 10240 * 2

Offload = Literal["none", "model", "sequential"]


@dataclass(frozen=True, slots=True)
class ImagePeak:
    """Where the peak of a pipeline is: the weights that lie on the card then, and what the work itself takes."""

    weights_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes


def component_bytes(component: ImageComponent, quant: str, dtype_bytes: int) -> int:
    """One component's weights. Only the denoiser's Linear layers are quantized (that is where the bytes are); the rest keeps the dtype.

    Worked number: SDXL's UNet, 2,567,463,684 parameters of which 2,232,647,680 are Linear, in NF4 with fp16 beside it:
    2,232,647,680 x 0.5625 + 334,816,004 x 2 = 1,925,496,328 bytes.
    """
    scheme = parse_scheme(quant)
    if component.role == "text_encoder" and component.params > T5_XXL_LEAST_PARAMS and dtype_bytes == 2:
        return component.params * dtype_bytes + T5_XXL_FP32_EXTRA_BYTES
    if scheme.family == "none" or component.role != "denoiser" or not component.linear_params:
        return component.params * dtype_bytes
    rest = component.params - component.linear_params
    return int(component.linear_params * scheme.matrix_bytes + rest * dtype_bytes)


def pipeline_bytes(image: ImageGeometry, variant: Variant, dtype_bytes: int) -> int:
    """F7: all components, exact where the catalogue knows the bytes and the dtype is the stored one."""
    scheme = parse_scheme(variant.quant)
    if variant.weight_bytes is not None and scheme.family == "none":
        return int(variant.weight_bytes * dtype_bytes / scheme.matrix_bytes)
    return sum(component_bytes(component, variant.quant, dtype_bytes) for component in image.components)


def decode_bytes(image: ImageGeometry, workload: ImageWorkload, dtype_bytes: int) -> int:
    """The VAE's decode of the whole batch.

    Worked numbers: 1024 x 1024 in fp16: 1.9 + 0.5 = 2.4 GiB (2.41 measured on FLUX); four of them with SDXL's upcast: 4 x 3.8 + 0.5 =
    15.7 GiB (15.3 measured).
    """
    dtype_bytes = 4 if image.vae_upcasts else dtype_bytes
    return decode_area_bytes(workload.width_px * workload.height_px * workload.batch / MEGAPIXEL, dtype_bytes)


def decode_area_bytes(megapixels: float, dtype_bytes: float) -> int:
    """The decode of `megapixels` at once: proportional, plus a workspace that small images don't fill."""
    return int(DECODE_BYTES_PER_MEGAPIXEL * dtype_bytes / 2 * megapixels + DECODE_WORKSPACE_BYTES * min(1.0, megapixels))


def denoise_bytes(image: ImageGeometry, workload: ImageWorkload, dtype_bytes: int) -> int:
    """One denoising step of the whole batch, doubled by classifier-free guidance. Worked number: FLUX at 1024 x 1024: 1.1 GiB."""
    area = workload.width_px * workload.height_px * workload.batch / MEGAPIXEL
    return int(DENOISE_BYTES_PER_MEGAPIXEL * area * (2 if image.uses_cfg else 1) * dtype_bytes / 2)


def image_peak(image: ImageGeometry, variant: Variant, workload: ImageWorkload, dtype_bytes: int, offload: Offload = "none") -> ImagePeak:
    """F8 and F9: the peak of one job.

    1. No offload: all weights lie on the card; the larger of VAE decode and denoising comes on top.
    2. Model offload: one component at a time; the peak is the worst of denoiser + step, largest text encoder + 0.3 GiB, VAE + decode.
       Components that bitsandbytes has quantized are not moved: they stay on the card all the time.
    3. Sequential offload: layer by layer; weights hardly count, work is as before.
    """
    decode, denoise = decode_bytes(image, workload, dtype_bytes), denoise_bytes(image, workload, dtype_bytes)
    # 1
    if offload == "none":
        return ImagePeak(pipeline_bytes(image, variant, dtype_bytes), max(decode, denoise))
    # 3
    sizes = {role: _largest(image, role, variant.quant, dtype_bytes) for role in ("denoiser", "text_encoder", "vae", "other")}
    if offload == "sequential":
        return ImagePeak(sizes["vae"], max(decode, denoise))
    # 2
    pinned = sizes["denoiser"] if parse_scheme(variant.quant).family == "bnb" else 0
    moments = (
        ImagePeak(sizes["denoiser"], denoise), ImagePeak(pinned + max(sizes["text_encoder"], sizes["other"]), int(ENCODE_BYTES)),
        ImagePeak(pinned + sizes["vae"], decode),
    )  # fmt: skip
    return max(moments, key=lambda peak: peak.total_bytes)


def _largest(image: ImageGeometry, role: str, quant: str, dtype_bytes: int) -> int:
    return max((component_bytes(part, quant, dtype_bytes) for part in image.components if part.role == role), default=0)
