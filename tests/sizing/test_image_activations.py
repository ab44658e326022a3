"""What was traced: the worked numbers, and figures that logs measured on cards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sizing.catalogue import load_catalogue
from services.sizing.image_activations import MIB, Area, Line, _raw, decode_bytes, encode_bytes, fp8_kept_share, qkv_params, step_bytes

GIB = 2**30
FLUX, FLUX_VAE, SDXL_VAE, QWEN_VAE = 11_901_408_320, 83_819_683, 83_653_863, 126_892_531
ONE = Area(1.0, 1, 2)


def test_every_catalogue_model_was_traced_by_its_own_configuration() -> None:
    """The count of parameters that the trace built is the catalogue's; made-up small models and LCM's one extra matrix aside."""
    traced = _raw()["denoisers"].values()
    for model in load_catalogue().models:
        if model.image is None or model.id == "digits-sd":
            continue
        denoiser = next(part for part in model.image.components if part.role == "denoiser")
        same = [row for row in traced if model.image.pipeline in row["pipelines"]]
        assert same, model.id
        assert min(abs(row["params"] - denoiser.params) for row in same) <= 0.001 * denoiser.params, model.id


def test_worked_numbers() -> None:
    assert Line(412.5, 55.5).of(ONE) == 468 * MIB
    assert step_bytes("FluxPipeline", "transformer", FLUX, ONE, "live") == 468 * MIB
    assert decode_bytes(FLUX_VAE, ONE, "live") == pytest.approx(2432.5 * MIB)
    assert encode_bytes(4_762_310_656, 2, "live") == 88 * MIB
    assert qkv_params("transformer", FLUX) == 2_152_378_368
    assert fp8_kept_share("transformer", FLUX) == 3_247_664_192 / FLUX


@pytest.mark.parametrize(("batch", "measured"), [(1, 2.41), (4, 8.05), (8, 16.07), (16, 30.11)])
def test_decode_of_flux_batches(batch: int, measured: float) -> None:
    assert decode_bytes(FLUX_VAE, Area(1.0, batch, 2), "live") / GIB == pytest.approx(measured, rel=0.04), "image-025 to -028"


def test_measured_elsewhere() -> None:
    assert decode_bytes(SDXL_VAE, Area(1.0, 4, 4), "live") / GIB == pytest.approx(15.17, rel=0.03), "image-058 less its weights"
    sd3 = 2 * 2_084_951_104 + step_bytes("StableDiffusion3Pipeline", "transformer", 2_084_951_104, Area(1.0, 2, 2), "live")
    assert sd3 / GIB == pytest.approx(4.266, rel=0.02), "image-040"


def test_slicing_and_tiling_take_less() -> None:
    large = Area(4.0, 4, 2)
    plain, sliced = decode_bytes(SDXL_VAE, large, "card"), decode_bytes(SDXL_VAE, large, "card", sliced=True)
    tiled = decode_bytes(SDXL_VAE, large, "card", tiled=True)
    assert tiled < GIB < sliced < plain / 3
    assert decode_bytes(QWEN_VAE, large, "card", tiled=True) == decode_bytes(QWEN_VAE, large, "card", sliced=True), "not traced in tiles"


def test_an_unknown_pipeline_takes_the_nearest_of_its_kind() -> None:
    assert step_bytes("", "unet", 2_600_000_000, ONE, "card") == step_bytes("StableDiffusionXLPipeline", "unet", 2_567_463_684, ONE, "card")
    assert step_bytes("", "other", FLUX, ONE, "card") == step_bytes("FluxPipeline", "transformer", FLUX, ONE, "card")
    assert step_bytes("", "unet", 0, ONE, "card") > 0


SIDES, IMAGES = st.floats(0.001, 16), st.integers(1, 32)


@given(SIDES, SIDES, IMAGES, IMAGES, st.booleans(), st.booleans())
def test_more_never_takes_less(a: float, b: float, m: int, n: int, sliced: bool, tiled: bool) -> None:
    small, large = Area(min(a, b), min(m, n), 2), Area(max(a, b), max(m, n), 2)
    for params in (SDXL_VAE, FLUX_VAE, QWEN_VAE, 2_445_063):
        before, after = (decode_bytes(params, area, "card", sliced=sliced, tiled=tiled) for area in (small, large))
        assert before <= after
        assert decode_bytes(params, small, "live", sliced=sliced) <= decode_bytes(params, small, "card", sliced=sliced)
    for row in _raw()["denoisers"].values():
        assert 0 < Line(*row["live"]).of(small) <= Line(*row["card"]).of(small) <= Line(*row["card"]).of(large)
