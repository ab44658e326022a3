"""Predicted speeds: the worked numbers, and the measured ones that they are near."""

from __future__ import annotations

import pytest

from services.sizing.cards import load_cards, parse_cards, simulated_cpu_card, spec_of
from services.sizing.case_geometry import text_geometry
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit
from services.sizing.memory_weights import gguf_parts
from services.sizing.speed import decode_tok_s, images_per_min, prefill_tok_s
from services.sizing.speed_data import (
    CMP_STOCK,
    EFFICIENCY,
    PASCAL_SMALL_QUANT_DECODE,
    PASCAL_SMALL_QUANT_SHARE,
    SD15_IT_S,
    SD15_STEP_FLOP,
    VAE_FLOP_PER_MPX,
    link_bytes_per_s,
)
from services.sizing.types import Host, ImageWorkload, Speed, TextWorkload
from tests.sizing.geometry import LLAMA_8B, QWEN3_30B_A3B

GIB = 2**30
HOST = Host(32 * GIB, 30 * GIB, "Xeon", 8, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
CATALOGUE = load_catalogue()


def test_decode_worked_number() -> None:
    card = parse_cards("RTX 3060 Ti")[0]
    spec = spec_of(card)
    assert spec is not None
    speed = decode_tok_s(spec, EFFICIENCY["Ampere"], LLAMA_8B, int(4.62e9))
    assert speed == pytest.approx(62.8, abs=0.3)
    assert speed == pytest.approx(60.2, rel=0.1), "kreier, llama3.1 8B"


@pytest.mark.parametrize(
    ("card", "model", "measured"),
    [("RTX 3060 Ti", "llama-3.1-8b-instruct", 60.2), ("RX 580 8GB", "llama-3.2-3b-instruct", 36.2),
     ("RX 6600", "llama-3.1-8b-instruct", 34.5), ("GTX 1050 Ti", "llama-3.2-1b-instruct", 48.4),
     ("RTX 2080", "llama-3.1-8b-instruct", 71.9)],
)  # fmt: skip
def test_decode_is_near_what_others_measured(card: str, model: str, measured: float) -> None:
    report = fit(parse_cards(card)[0], CATALOGUE.get(model), HOST, variant_id="q4_k_m-gguf", workload=TextWorkload(2048, 1))
    assert report.speed is not None
    assert report.speed.decode_tok_s == pytest.approx(measured, rel=0.35)


def test_on_pascal_a_smaller_quant_is_not_a_faster_one() -> None:
    model, card, one = CATALOGUE.get("mistral-nemo-instruct-2407"), parse_cards("P102-100 10GB")[0], TextWorkload(2048, 1)
    speeds = [fit(card, model, HOST, variant_id=variant, workload=one).speed for variant in ("q3_k_m-gguf", "q4_k_m-gguf")]
    small, usual = (speed.decode_tok_s if speed else None for speed in speeds)
    assert small is not None
    assert usual is not None
    assert small < usual


def test_prefill_worked_number() -> None:
    spec = next(spec for spec in load_cards() if spec.key == "GTX 1080 Ti 11GB")
    assert prefill_tok_s(spec, EFFICIENCY["Pascal"], LLAMA_8B) == pytest.approx(11.34e12 * 0.86 / (2 * 8_030_261_248), abs=0.1)


def test_moe_reads_its_share() -> None:
    spec = next(spec for spec in load_cards() if spec.key == "RTX 3090 24GB")
    sparse = decode_tok_s(spec, EFFICIENCY["Ampere"], QWEN3_30B_A3B, 17 * GIB)
    dense = decode_tok_s(spec, EFFICIENCY["Ampere"], LLAMA_8B, 17 * GIB)
    assert sparse is not None
    assert dense is not None
    assert sparse > 3 * dense


def test_links() -> None:
    assert link_bytes_per_s(1, 1) == 0.20e9
    assert link_bytes_per_s(2, 1) == pytest.approx(0.405e9)
    assert 8e9 / link_bytes_per_s(1, 1) == 40


def test_loading_over_a_riser_is_slow_and_unknown_links_are_unknown() -> None:
    model = CATALOGUE.get("llama-3.1-8b-instruct")
    cards = ("P104-100 8GB@gen1x1", "P104-100 8GB@gen1x4", "P104-100 8GB")
    riser, slot, unknown = (fit(parse_cards(text)[0], model, HOST).speed for text in cards)
    assert riser is not None
    assert slot is not None
    assert unknown is not None
    assert riser.load_s is not None
    assert slot.load_s is not None
    assert riser.load_s > 3 * slot.load_s
    assert unknown.load_s is None


def speed(card: str, model: str, workload: ImageWorkload | TextWorkload | None = None) -> Speed:
    report = fit(parse_cards(card)[0], CATALOGUE.get(model), HOST, workload=workload)
    assert report.speed is not None
    return report.speed


def test_images_per_minute_worked_number() -> None:
    assert images_per_min(6.23, 25 * SD15_STEP_FLOP + 2.515e12) == pytest.approx(14.1, abs=0.05)
    steps = CATALOGUE.get("sd-1.5").image.default_steps  # type: ignore[union-attr]
    expected = 60 * 6.23 / (steps + VAE_FLOP_PER_MPX / 4 / SD15_STEP_FLOP)
    assert speed("RTX 3060 12GB", "sd-1.5").images_per_min == pytest.approx(expected, rel=0.01)


def test_a_bigger_model_and_picture_make_fewer_images() -> None:
    small, large = speed("RTX 3090", "sd-1.5").images_per_min, speed("RTX 3090", "sdxl").images_per_min
    assert small is not None
    assert large is not None
    assert 4 < small / large < 12, "SDXL's pass at its native size is 8.4 times the FLOP of SD 1.5's at its own"


@pytest.mark.parametrize(("model", "word"), [("digits-sd", "fixed cost"), ("flux.1-schnell", "UNet")])
def test_images_that_nobody_measured_the_like_of_are_not_predicted(model: str, word: str) -> None:
    found = speed("RTX 3090", model)
    assert found.images_per_min is None
    assert word in found.basis


def test_a_tiny_picture_is_not_predicted() -> None:
    assert speed("RTX 3090", "sd-1.5", ImageWorkload(512, 512)).images_per_min is not None
    assert speed("RTX 3090", "sd-1.5", ImageWorkload(192, 192)).images_per_min is None


def test_embedding_models_decode_nothing() -> None:
    found = speed("RTX 3090", "bge-m3")
    assert found.decode_tok_s is None
    assert found.prefill_tok_s is not None


def test_a_tiny_language_model_says_that_its_step_time_is_one_card_s() -> None:
    assert "fixed cost" in speed("RTX 3090", "smollm2-135m-instruct").basis
    assert "fixed cost" not in speed("RTX 3090", "llama-3.1-8b-instruct").basis


def test_no_source_no_figure() -> None:
    cpu = fit(simulated_cpu_card(4 * GIB), CATALOGUE.get("smollm2-135m-instruct"), HOST).speed
    assert cpu is not None
    assert cpu.decode_tok_s is None
    probed = fit(parse_cards("CMP 50HX")[0], CATALOGUE.get("llama-3.1-8b-instruct"), HOST).speed
    assert probed is not None
    assert probed.decode_tok_s is None


def test_the_tables_name_real_cards() -> None:
    keys = {spec.key for spec in load_cards()}
    assert set(SD15_IT_S) <= keys
    assert set(CMP_STOCK) <= keys
    assert set(EFFICIENCY) <= {spec.architecture for spec in load_cards()}


def test_small_quants_on_pascal_are_predicted_as_measured() -> None:
    """P40, LLaMA-7B (ggml-org/llama.cpp#4766): tokens a second x file / bandwidth; P104-100: 34 % stated. The constant is their mean, so
    this only says that the derivation is what its comment claims, and that no measured run is far from it."""
    llama = text_geometry("meta-llama/Llama-2-7b-hf", None)
    q3, q2 = (speed * gguf_parts(llama, quant)[0] / 346e9 for speed, quant in ((30.9, "q3_k_s"), (33.5, "q2_k")))
    assert list(PASCAL_SMALL_QUANT_DECODE) == pytest.approx([q3, q2, 0.34], abs=0.005)
    efficiency = EFFICIENCY["Pascal"].decode * PASCAL_SMALL_QUANT_SHARE
    assert efficiency == pytest.approx(0.283, abs=0.005)
    assert all(abs(measured / efficiency - 1) < 0.25 for measured in (q3, q2, 0.34)), "each measured run is met within a quarter"
