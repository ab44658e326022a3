"""The worked numbers of the image formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.memory_image import component_bytes, encoders_bytes, image_peak, pipeline_bytes
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
FLUX = ImageGeometry(
    "FluxPipeline",
    (
        ImageComponent("transformer", "denoiser", 11_901_408_320, 11_898_322_944),
        ImageComponent("text_encoder", "text_encoder", 123_060_480, 84_934_656),
        ImageComponent("text_encoder_2", "text_encoder", 4_762_310_656, 4_630_511_616),
        ImageComponent("vae", "vae", 83_819_683, 2_097_152),
    ),
    1024, uses_cfg=False,
)  # fmt: skip
FP16, NF4 = Variant("fp16", "diffusers", "fp16", SOURCE), Variant("bnb-nf4", "diffusers", "bnb-nf4", SOURCE)
NF4_ALL = replace(NF4, id="bnb-nf4-all", quantized=("denoiser", "text_encoder"))
INT8 = Variant("bnb-int8", "diffusers", "bnb-int8", SOURCE)
ONE = ImageWorkload(1024, 1024)


def test_t5_keeps_a_matrix_in_fp32_beside_fp16_only() -> None:
    t5 = FLUX.components[2]
    assert component_bytes(t5, FP16, "float16") == 2 * 4_762_310_656 + 2_013_265_920
    assert component_bytes(t5, replace(FP16, quant="bf16"), "bfloat16") == 2 * 4_762_310_656
    assert component_bytes(t5, replace(FP16, quant="fp32"), "float32") == 4 * 4_762_310_656
    told = replace(FP16, weight_bytes=1000)
    assert pipeline_bytes(FLUX, told, "float16") - pipeline_bytes(FLUX, told, "bfloat16") == 2_013_265_920


def test_components() -> None:
    assert component_bytes(SDXL.components[0], NF4, "float16") == 1_925_496_328
    assert component_bytes(SDXL.components[1], NF4, "float16") == 2 * 123_060_480, "only the denoiser is quantized"
    assert pipeline_bytes(SDXL, FP16, "float16") == 2 * 3_468_837_867
    assert pipeline_bytes(SDXL, replace(FP16, weight_bytes=1000), "float32") == 2000


def test_quantized_text_encoders() -> None:
    t5 = FLUX.components[2]
    assert component_bytes(t5, NF4_ALL, "float16") == component_bytes(t5, NF4_ALL, "bfloat16") == 2_868_260_864
    eight = replace(NF4_ALL, quant="bnb-int8")
    assert component_bytes(t5, eight, "float16") == 3_627_417_600 + 4_026_531_840 + 263_598_080, "wo stays in fp32"
    assert component_bytes(t5, eight, "bfloat16") == 3_627_417_600 + 2_013_265_920 + 263_598_080, "wo stays in bf16"
    assert component_bytes(FLUX.components[3], NF4_ALL, "float16") == 2 * 83_819_683, "the VAE is never quantized"


def test_what_is_left_out_takes_nothing() -> None:
    alone = replace(FP16, without=("text_encoder_2",), weight_bytes=1000)
    assert component_bytes(FLUX.components[2], alone, "float16") == 0
    assert pipeline_bytes(FLUX, alone, "float16") == 1000, "nor does its float32 matrix"
    offloaded = image_peak(FLUX, replace(NF4, without=("text_encoder_2",)), ONE, "bfloat16", "model")
    assert offloaded.weights_bytes == component_bytes(FLUX.components[0], NF4, "bfloat16"), "the step is the peak then"


def test_quantized_text_encoders_move_the_peak_to_the_denoiser() -> None:
    peak = image_peak(FLUX, NF4_ALL, ONE, "bfloat16", "model")
    assert peak.weights_bytes == component_bytes(FLUX.components[0], NF4, "bfloat16")
    tiny = image_peak(FLUX, NF4_ALL, ImageWorkload(64, 64), "float16")
    assert tiny.activation_bytes >= 4096 * 10240 * 6, "a matrix of T5 unpacked in 16 bit and in 32"


def test_tiles_bound_the_decode() -> None:
    whole, tiles = (image_peak(SDXL, FP16, ONE, "float16", tiled=tiled).activation_bytes for tiled in (False, True))
    assert tiles < whole / 2
    assert tiles / GIB == pytest.approx((2 * (644.0 + 10.9) + 512 / 4) / 1024 + 83_653_863 * 2 / GIB), "one tile of 512 px in fp32"


def test_the_vae_decodes_one_image_after_another() -> None:
    one, four = (image_peak(SDXL, FP16, ImageWorkload(1024, 1024, batch), "float16") for batch in (1, 4))
    waiting = 3 * 1024 * 1024 * 2 * 3 * 4  # three more pictures, twice, of 3 channels in fp32
    assert four.activation_bytes - one.activation_bytes == waiting
    assert one.activation_bytes / GIB == pytest.approx((2 * (2304 + 3.5) + 512) / 1024 + 83_653_863 * 2 / GIB), "fp32 decode and weights"
    already = image_peak(SDXL, FP16, ONE, "float32").activation_bytes
    assert one.activation_bytes - already == pytest.approx(83_653_863 * 2, abs=2), "the upcast is float32 already"


def test_guidance_doubles_the_step() -> None:
    # Without the upcast and small decode, a large batch makes the step the peak: 16 images of 512 px.
    many = ImageWorkload(512, 512, 16)
    plain = replace(SDXL, vae_upcasts=False, uses_cfg=False)
    once, twice = (image_peak(image, FP16, many, "float16").activation_bytes for image in (plain, replace(plain, uses_cfg=True)))
    assert twice == 2 * once


def test_offload_moves_the_peak() -> None:
    whole, model, layers = (image_peak(SDXL, FP16, ONE, "float16", how).total_bytes for how in ("none", "model", "sequential"))  # type: ignore[arg-type]
    assert layers <= model < whole
    assert image_peak(SDXL, INT8, ONE, "float16", "model").weights_bytes > 2_232_647_680, "8-bit bitsandbytes modules are not moved"
    assert image_peak(SDXL, NF4, ONE, "float16", "model").weights_bytes < 1_925_496_328, "4-bit ones are: the decode is the peak"


def test_flux_under_model_offload() -> None:
    assert image_peak(FLUX, FP16, ONE, "bfloat16", "model").total_bytes / GIB == pytest.approx(23.271, rel=0.03), "image-002, reserved"
    t5 = image_peak(FLUX, NF4, ONE, "bfloat16", "model")
    assert t5.total_bytes / GIB == pytest.approx(9.164, rel=0.03), "with a quantized transformer T5 is the peak (image-018, reserved)"


def test_text_encoders_meet_under_model_offload() -> None:
    clip, clip_g, t5 = 247_300_608, 1_389_319_680, 2 * 4_762_310_656 + 2_013_265_920
    assert encoders_bytes([clip, clip_g, t5], True) == t5 + clip_g
    assert encoders_bytes([clip, clip_g, t5], True) / GIB == pytest.approx(12.0645, rel=0.005), "image-039"
    assert encoders_bytes([clip, clip_g, t5], False) == t5
    assert (encoders_bytes([clip], True), encoders_bytes([], True)) == (clip, 0)
