"""The worked numbers of the image formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.memory_image import component_bytes, decode_area_bytes, decode_bytes, denoise_bytes, image_peak, pipeline_bytes
from services.sizing.types import ImageComponent, ImageGeometry, ImageWorkload, Variant, WeightSource

GIB = 2**30
SOURCE = WeightSource("repo", path="x")
SDXL = ImageGeometry(
    "StableDiffusionXLPipeline",
    (
        ImageComponent("unet", "denoiser", 2_567_463_684, 2_232_647_680),
        ImageComponent("text_encoder", "text_encoder", 123_060_480, 84_934_656),
        ImageComponent("text_encoder_2", "text_encoder", 694_659_840, 630_784_000),
        ImageComponent("vae", "vae", 83_653_863, 2_097_152),
    ),
    1024, vae_upcasts=True,
)  # fmt: skip
FP16, NF4 = Variant("fp16", "diffusers", "fp16", SOURCE), Variant("bnb-nf4", "diffusers", "bnb-nf4", SOURCE)


def test_t5_keeps_a_matrix_in_fp32() -> None:
    t5 = ImageComponent("text_encoder_3", "text_encoder", 4_762_310_656)
    assert component_bytes(t5, "fp16", 2) == 2 * (4_762_310_656 + 1_006_632_960)
    assert component_bytes(t5, "fp32", 4) == 4 * 4_762_310_656


def test_components() -> None:
    assert component_bytes(SDXL.components[0], "bnb-nf4", 2) == 1_925_496_328
    assert component_bytes(SDXL.components[1], "bnb-nf4", 2) == 2 * 123_060_480, "only the denoiser is quantized"
    assert pipeline_bytes(SDXL, FP16, 2) == 2 * 3_468_837_867
    assert pipeline_bytes(SDXL, replace(FP16, weight_bytes=1000), 4) == 2000


def test_worked_numbers() -> None:
    one = ImageWorkload(1024, 1024)
    assert decode_bytes(replace(SDXL, vae_upcasts=False), one, 2) == int(2.4 * GIB)
    assert decode_bytes(SDXL, one, 2) == int(4.3 * GIB)
    assert decode_bytes(SDXL, one, 4) == decode_bytes(SDXL, one, 2), "the upcast is float32 already"
    assert decode_bytes(SDXL, ImageWorkload(1024, 1024, 4), 2) == int(15.7 * GIB)
    assert decode_bytes(SDXL, ImageWorkload(32, 32), 4) < 5 * 2**20, "a small image fills no workspace"


@pytest.mark.parametrize(("batch", "measured"), [(1, 2.41), (4, 8.05), (8, 16.07), (16, 30.11)])
def test_decode_of_flux_batches(batch: int, measured: float) -> None:
    assert decode_area_bytes(batch, 2) / GIB == pytest.approx(measured, rel=0.03)


def test_denoising() -> None:
    one = ImageWorkload(1024, 1024)
    assert denoise_bytes(replace(SDXL, uses_cfg=False), one, 2) == int(1.1 * GIB)
    assert denoise_bytes(SDXL, one, 2) == int(2.2 * GIB)


def test_the_measured_batch_of_four() -> None:
    peak = image_peak(SDXL, FP16, ImageWorkload(1024, 1024, 4), 2)
    assert peak.total_bytes / GIB == pytest.approx(21.72, rel=0.03), "image-059"


def test_offload_moves_the_peak() -> None:
    one = ImageWorkload(1024, 1024)
    whole, model, layers = (image_peak(SDXL, FP16, one, 2, how).total_bytes for how in ("none", "model", "sequential"))  # type: ignore[arg-type]
    assert layers <= model < whole
    pinned = image_peak(SDXL, NF4, one, 2, "model")
    assert pinned.weights_bytes > 1_925_496_328, "bitsandbytes modules are not moved"


def test_flux_under_model_offload() -> None:
    flux = ImageGeometry("FluxPipeline", (ImageComponent("transformer", "denoiser", 11_901_408_320),
                                          ImageComponent("t5", "text_encoder", 4_762_310_656)), 1024, uses_cfg=False)  # fmt: skip
    peak = image_peak(flux, FP16, ImageWorkload(1024, 1024), 2, "model")
    assert peak.total_bytes / GIB == pytest.approx(23.271, rel=0.005), "image-002"
