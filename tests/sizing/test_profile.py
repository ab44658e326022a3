"""Stock or unlocked: the published measurements of engines table section 8, each decided as its publisher says it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.cards import load_cards, parse_cards, spec_of
from services.sizing.engine_table import kind_of
from services.sizing.profile import ProbeFigures, profile_of
from services.sizing.types import CardSpec

T = 1e12


def spec(key: str) -> CardSpec:
    return next(spec for spec in load_cards() if spec.key == key)


def whole(key: str) -> ProbeFigures:
    """What a card would measure if nothing of it were throttled: fp32 as in the table, dp4a four times that, matrices eight times."""
    fp32 = spec(key).fp32_flops or 0.0
    return ProbeFigures(key, 8 * 2**30, fp32, fp32 / 2, 2 * fp32, 4 * fp32, 8 * fp32, 4e11, 0.8e9)


PUBLISHED = [
    # xrip/cmp50hx-unlock: FMA 0.427, mul+add 5.9, half2 22, dp4a 1.69; unlocked fp32 13.5, tensor 87-107, dp4a 48.
    ("CMP 50HX", {"fp32_fma_flops": 0.427 * T, "fp32_mul_add_flops": 5.9 * T, "hfma2_flops": 22 * T, "dp4a_ops_per_s": 1.69 * T}, "stock"),
    ("CMP 50HX", {"fp32_fma_flops": 13.5 * T, "fp32_mul_add_flops": 5.9 * T, "hgemm_flops": 87 * T, "dp4a_ops_per_s": 48 * T}, "unlocked"),
    # Cyridd/CMP40HX-Unlock: HGEMM 7.9 stock, 51.7 unlocked; nothing else published.
    ("CMP 40HX", {"hgemm_flops": 7.9 * T}, "stock"),
    ("CMP 40HX", {"hgemm_flops": 51.7 * T}, "unlocked"),
    # 90HX: FFMA 8 to 14 times slow, dp4a 29 times, half2 at full speed.
    ("CMP 90HX", {"fp32_fma_flops": 21.89 * T / 8}, "stock"),
    ("CMP 90HX", {"fp32_fma_flops": 21.89 * T / 14, "fp32_mul_add_flops": 21.89 * T / 16}, "stock"),
    ("CMP 90HX", {"dp4a_ops_per_s": 4 * 21.89 * T / 29}, "stock"),
    # arabel1a/ml-on-cmp: FMA 0.39 against 6.25 without FMA; tensor and dp4a 16 times slow (of 202 and 50.5).
    ("CMP 170HX 8GB", {"fp32_fma_flops": 0.39 * T, "fp32_mul_add_flops": 6.25 * T}, "stock"),
    ("CMP 170HX 8GB", {"hgemm_flops": 202 * T / 16}, "stock"),
    ("CMP 170HX 8GB", {"dp4a_ops_per_s": 50.5 * T / 16}, "stock"),
    # duggasco/CMP100-210: fp32 12.76 and dp4a 17 fine, tensor 7.1 (1/16).
    ("CMP 100-210", {"fp32_fma_flops": 12.76 * T, "dp4a_ops_per_s": 17 * T, "hgemm_flops": 7.1 * T}, "stock"),
]


@pytest.mark.parametrize(("key", "measured", "expected"), PUBLISHED)
def test_published_measurements(key: str, measured: dict[str, float], expected: str) -> None:
    """What was not published is taken as whole, so that the published figure alone decides."""
    found = profile_of(replace(whole(key), **measured), spec(key))  # type: ignore[arg-type]
    assert found.profile == expected
    assert found.reasons
    assert all("T/s" in reason for reason in found.reasons)


@pytest.mark.parametrize("key", ["CMP 40HX", "CMP 50HX", "CMP 70HX", "CMP 90HX", "CMP 170HX 8GB", "CMP 170HX 10GB", "CMP 100-210"])
def test_a_whole_card_is_unlocked(key: str) -> None:
    assert profile_of(whole(key), spec(key)).profile == "unlocked"


def test_worked_ratio() -> None:
    reasons = profile_of(replace(whole("CMP 50HX"), fp32_fma_flops=0.427 * T, fp32_mul_add_flops=5.9 * T), spec("CMP 50HX")).reasons
    assert "0.43 T/s, 0.07 of mul+add" in reasons[0]
    assert "0.04 of the table's fp32 rate" in reasons[1]


def test_what_was_not_measured_is_not_decided() -> None:
    none = profile_of(ProbeFigures("CMP 50HX"), spec("CMP 50HX"))
    assert none.profile is None
    assert all("not measured" in reason for reason in none.reasons)
    assert profile_of(replace(whole("CMP 50HX"), hgemm_flops=None), spec("CMP 50HX")).profile is None
    assert profile_of(replace(ProbeFigures("CMP 50HX"), hgemm_flops=T), spec("CMP 50HX")).profile == "stock", "one slow thing is enough"


def test_cards_that_are_sold_whole_have_no_profile() -> None:
    assert profile_of(whole("RTX 3060 Ti 8GB"), spec("RTX 3060 Ti 8GB")).profile is None
    assert profile_of(whole("P106-100 6GB"), spec("P106-100 6GB")).profile is None
    assert profile_of(ProbeFigures("something"), None).profile is None


def test_a_chip_without_tensor_cores_is_never_taken_for_one_with() -> None:
    """Else the table would send a TU116 to the row of Turing with tensor cores, whose fp16 images are black on it."""
    assert profile_of(whole("CMP 30HX"), spec("CMP 30HX")).profile == "stock"


def test_the_profile_chooses_the_row_of_the_engine_table() -> None:
    card = parse_cards("CMP 50HX")[0]
    assert kind_of(card, spec_of(card)).name == "CMP at stock"  # type: ignore[union-attr]
    assert kind_of(replace(card, profile="unlocked"), spec_of(card)).name == "Turing"  # type: ignore[union-attr]
