"""What quantization costs and how models are ranked: published figures, in their published order, and what is unknown stays unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit
from services.sizing.plan_goals import LLAMACPP, LOSS
from services.sizing.quality import (
    ACCEPTABLE_LOSS,
    BENCHMARK,
    FEWEST_SCORES,
    LOSSES,
    acceptable,
    loss_of,
    loss_order,
    loss_words,
    merits,
    quality_loss,
)
from services.sizing.types import Host, ModelSpec, TextWorkload, Variant, WeightSource

CATALOGUE = load_catalogue()
SOURCE = WeightSource("hub", "owner/name", "main", files=("model.safetensors",))
GIB = 2**30
HOST = Host(32 * GIB, 28 * GIB, "Xeon", 8, ("avx2", "fma"), "x86_64")


def variant(quant: str) -> Variant:
    return Variant("v", "safetensors", quant, SOURCE)


@pytest.mark.parametrize(
    ("quant", "share"),
    [
        ("bf16", 0.0), ("Q8_0", 0.0004), ("Q6_K", 0.0035), ("Q5_K_M", 0.0091), ("Q4_K_M", 0.0282), ("Q4_0", 0.0752), ("Q3_K_M", 0.1054),
        ("Q2_K", 0.5648), ("awq-int4-g128", 0.0651), ("gptq-int4-g128", 0.0684), ("gptq-int8-g128", 0.0008), ("bnb-nf4", 0.0798),
        ("fp8", 0.0060), ("MXFP4", 0.0),
    ],
)  # fmt: skip
def test_worked_numbers(quant: str, share: float) -> None:
    found = quality_loss(quant)
    assert found is not None
    assert found.share == pytest.approx(share, abs=5e-5)
    assert found.source


@pytest.mark.parametrize("quant", ["nvfp4", "exl3 4.0bpw", "awq-int3", "gptq-int3-g128", "", "q9"])
def test_what_nobody_measured_is_unknown_and_comes_last(quant: str) -> None:
    assert quality_loss(quant) is None
    assert loss_of(variant(quant)) is None
    assert not acceptable(variant(quant))
    assert loss_order(variant(quant)) > max(loss.share for loss in LOSSES.values())
    assert "not measured" in loss_words(variant(quant))


def test_the_order_is_the_scoreboards_own() -> None:
    order = ["bf16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "awq-int4", "gptq-int4", "Q4_1", "Q4_0", "bnb-nf4", "Q3_K_L",
             "Q3_K_M", "Q3_K_S", "Q2_K"]  # fmt: skip
    assert sorted(order, key=lambda quant: loss_order(variant(quant))) == order


def test_four_bits_are_acceptable_and_three_are_not() -> None:
    assert all(acceptable(variant(quant)) for quant in ("Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "awq-int4-g128", "gptq-int4", "bnb-nf4"))
    assert not any(acceptable(variant(quant)) for quant in ("Q3_K_L", "Q3_K_M", "IQ3_M", "Q2_K"))
    assert -LOSS * ACCEPTABLE_LOSS < -LLAMACPP, "a plan takes vLLM's variant of a model, as `fit` does"


def test_the_catalogues_own_figure_wins() -> None:
    assert loss_of(replace(variant("Q2_K"), quality_loss=0.01)) == 0.01
    assert loss_words(replace(variant("nvfp4"), quality_loss=0.0)) == "nothing lost"


def test_every_variant_of_the_catalogue_has_a_published_loss() -> None:
    unknown = {(model.id, v.id) for model in CATALOGUE.models for v in model.variants if loss_of(v) is None}
    assert not unknown, "look for a published measurement, or leave it None and list it here"


def test_every_score_has_its_source() -> None:
    scored = [model for model in CATALOGUE.models if model.quality is not None]
    assert len(scored) >= 30
    for model in scored:
        assert model.quality_source.startswith(BENCHMARK[model.kind]), model.id


def made(name: str, billions: float, quality: float | None) -> ModelSpec:
    return ModelSpec(name, name, "chat", "MIT", int(billions * 1e9), (), quality=quality, quality_source="made up" if quality else "")


def test_a_score_ranks_before_size() -> None:
    worth = merits(CATALOGUE.models)
    assert worth["qwen3.5-4b"].points > worth["llama-3.1-8b-instruct"].points, "79.1 and 48.3 published"
    assert worth["qwen3.5-4b"].points == pytest.approx(7.91)
    assert "79.1" in worth["qwen3.5-4b"].words


def test_a_model_without_a_score_is_assumed_below_the_line() -> None:
    """Scores beside a line of 10 points a doubling: start 20, deviation 2. 1 + 7 B is 3 doublings: 20 + 30 - 2."""
    rated = [made("a-1b", 1, 32), made("b-1b", 1, 28), made("c-15b", 15, 62), made("d-15b", 15, 58)]
    worth = merits([*rated, made("nobody-7b", 7, None)])
    assert worth["nobody-7b"].points == pytest.approx(4.8)
    assert "assumed" in worth["nobody-7b"].words


def test_inside_a_family_size_is_the_order() -> None:
    scores = {"a-1b": (1, 30), "a-3b": (3, 80), "b-1b": (1, 30), "b-15b": (15, 35), "c-9b": (9, 95), "c-30b": (30, 95)}
    rated = [made(name, billions, score) for name, (billions, score) in scores.items()]
    worth = merits([*rated, made("a-7b-it", 7, None), made("b-7b", 7, None)])
    assert worth["a-7b-it"].points == 8.0, "no less than its smaller sibling"
    assert worth["b-7b"].points == 3.5, "no more than its larger sibling"
    gemma = merits(CATALOGUE.models)
    assert gemma["gemma-4-e4b-it"].points <= gemma["gemma-4-12b-it"].points <= gemma["gemma-4-26b-a4b-it"].points


def test_too_few_scores_leave_size_and_say_so() -> None:
    worth = merits([made("x", 7, 90), *(made(f"y{i}", 31, None) for i in range(FEWEST_SCORES))])
    assert worth["x"].points == pytest.approx(3.0)
    assert worth["y0"].points == pytest.approx(5.0)
    assert all(merit.rated_by_size and "by size" in merit.words for merit in worth.values())


def test_alternatives_of_a_model_come_in_order_of_quality_lost_and_say_it() -> None:
    llama = CATALOGUE.get("llama-3.1-8b-instruct")
    report = fit(parse_cards("RTX 3060 12GB")[0], llama, HOST, variant_id="bf16", workload=TextWorkload(4096, 4), catalogue=CATALOGUE)
    by_id = {v.id: v for v in llama.variants}
    own = [by_id[hint.variant_id] for hint in report.hints if hint.model_id == llama.id and hint.variant_id != "bf16"]
    assert len(own) >= 3
    assert [loss_of(v) for v in own] == sorted(loss_order(v) for v in own)
    assert all("perplexity" in hint.text for hint in report.hints if hint.model_id == llama.id and hint.variant_id != "bf16")


def test_other_models_are_offered_best_first() -> None:
    worth = merits(CATALOGUE.models)
    report = fit(parse_cards("RTX 3060 Ti")[0], CATALOGUE.get("qwen2.5-32b-instruct"), HOST, catalogue=CATALOGUE)
    others = [worth[hint.model_id].points for hint in report.hints if hint.model_id != "qwen2.5-32b-instruct"]
    assert len(others) == 2
    assert others == sorted(others, reverse=True)
