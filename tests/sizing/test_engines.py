"""Every kind of card gets the engine that runs on it, and every choice and refusal says why."""

from __future__ import annotations

import pytest

from services.sizing.cards import load_cards, parse_cards, simulated_cpu_card, spec_of
from services.sizing.catalogue import load_catalogue
from services.sizing.engine_table import KINDS, kind_of
from services.sizing.engines import EngineRefusal, choices, choose
from services.sizing.overheads import OVERHEADS
from services.sizing.types import Card, Engine, EngineChoice, Host, ModelSpec, TextGeometry, Variant, WeightSource

GIB = 2**30
BIG = Host(32 * GIB, 30 * GIB, "Xeon", 8, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
SMALL = Host(8 * GIB, 6 * GIB, "Celeron", 2, ("sse4_2",), "x86_64")
MODELS = {model.id: model for model in load_catalogue().models}
LLAMA, SDXL, SMOL = MODELS["llama-3.1-8b-instruct"], MODELS["sdxl"], MODELS["smollm2-135m-instruct"]
SIM = simulated_cpu_card(4 * GIB)


def pick(model: ModelSpec, quant: str) -> Variant:
    return next(variant for variant in model.variants if variant.quant == quant)


def ask(card: Card, model: ModelSpec, quant: str, host: Host = BIG, engine: Engine | None = None) -> EngineChoice | EngineRefusal:
    return choose(card, spec_of(card), host, model, pick(model, quant), engine)


def chosen(card: Card, model: ModelSpec, quant: str, host: Host = BIG, engine: Engine | None = None) -> EngineChoice:
    answer = ask(card, model, quant, host, engine)
    assert isinstance(answer, EngineChoice), answer
    assert answer.reasons
    assert answer.environment in OVERHEADS
    return answer


def refused(card: Card, model: ModelSpec, quant: str, host: Host = BIG, engine: Engine | None = None) -> str:
    answer = ask(card, model, quant, host, engine)
    assert isinstance(answer, EngineRefusal), answer
    return answer.reason


def card(name: str, **change: object) -> Card:
    from dataclasses import replace

    return replace(parse_cards(name)[0], **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("P106-100", "llamacpp-cuda12"), ("P104-100 8GB", "llamacpp-cuda12"), ("GTX 1080 Ti", "llamacpp-cuda12"),
        ("Tesla V100 16GB", "llamacpp-cuda12"), ("CMP 100-210", "llamacpp-cuda12"), ("RTX 2080", "llamacpp-cuda13"),
        ("GTX 1660 Super", "llamacpp-cuda13"), ("RTX 3060 Ti", "llamacpp-cuda13"), ("RX 580 8GB", "llamacpp-vulkan"),
        ("Radeon VII", "llamacpp-vulkan"), ("RX 5700 XT", "llamacpp-vulkan"), ("RX 6600", "llamacpp-rocm"), ("CMP 50HX", "llamacpp-cuda12"),
    ],
)  # fmt: skip
def test_llamacpp_builds(name: str, environment: str) -> None:
    assert chosen(card(name), LLAMA, "Q4_K_M").environment == environment


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("P104-100 8GB", "float32"), ("GTX 1660 Super", "float32"), ("CMP 30HX", "float32"), ("CMP 40HX", "float32"), ("CMP 90HX", "float32"),
     ("CMP 170HX 8GB", "float32"), ("CMP 100-210", "float32"), ("RTX 2060 6GB", "float16"), ("RTX 3060 12GB", "float16"),
     ("Tesla V100 16GB", "float16")],
)  # fmt: skip
def test_image_dtypes(name: str, dtype: str) -> None:
    assert chosen(card(name), SDXL, "fp16").dtype == dtype


@pytest.mark.parametrize("name", ["GTX 1660 Super", "CMP 30HX", "CMP 40HX", "CMP 90HX"])
def test_never_fp16_images_where_they_are_black_or_crawl(name: str) -> None:
    answer = choices(card(name), spec_of(card(name)), BIG, SDXL, pick(SDXL, "fp16"))
    assert not isinstance(answer, EngineRefusal)
    assert {choice.dtype for choice in answer} == {"float32"}


def test_vllm_by_card() -> None:
    turing = chosen(card("RTX 2080 Ti"), LLAMA, "awq-int4-g128")
    assert (turing.environment, turing.dtype, turing.attention_backend) == ("vllm-cuda", "float16", "TRITON_ATTN")
    ampere = chosen(card("RTX 3090"), LLAMA, "bf16")
    assert (ampere.dtype, ampere.attention_backend) == ("bfloat16", "FLASH_ATTN")
    assert "7.5" in refused(card("P104-100 8GB"), LLAMA, "awq-int4-g128")
    assert "7.5" in refused(card("Tesla V100 16GB"), LLAMA, "awq-int4-g128", engine=Engine.VLLM)
    assert "AMD" in refused(card("RX 580 8GB"), LLAMA, "awq-int4-g128")


def test_special_attention_is_left_to_vllm() -> None:
    ampere = card("RTX 3090")
    for name in ("gpt-oss-20b", "deepseek-coder-v2-lite-instruct", "qwen3.5-9b"):
        model = MODELS[name]
        for variant in model.variants:
            answer = choose(ampere, spec_of(ampere), BIG, model, variant)
            assert isinstance(answer, EngineRefusal) or answer.attention_backend is None, (name, variant.id)
    moe = MODELS["deepseek-coder-v2-lite-instruct"]
    assert "experts" in refused(ampere, moe, "bnb-nf4")


def test_graphs_first_then_eager() -> None:
    three = card("RTX 3060 Ti")
    answer = choices(three, spec_of(three), BIG, LLAMA, pick(LLAMA, "awq-int4-g128"))
    assert not isinstance(answer, EngineRefusal)
    assert [choice.enforce_eager for choice in answer] == [False, True]


def test_small_hosts_get_llamacpp_and_hear_why() -> None:
    three = card("RTX 3060 Ti")
    reason = refused(three, LLAMA, "awq-int4-g128", SMALL)
    assert "3.17 GiB" in reason
    assert "llama.cpp is preferred" in reason
    asked = chosen(three, LLAMA, "awq-int4-g128", SMALL, Engine.VLLM)
    assert any("RAM" in sentence for sentence in asked.reasons)


def test_cmp_unlocked_is_an_ordinary_card() -> None:
    assert "throttled" in refused(card("CMP 90HX"), LLAMA, "awq-int4-g128")
    unlocked = card("CMP 90HX", profile="unlocked")
    assert chosen(unlocked, LLAMA, "awq-int4-g128").dtype == "bfloat16"
    assert chosen(unlocked, SDXL, "fp16").dtype == "float16"


def test_drivers() -> None:
    old = card("RTX 3060 Ti", driver_version="535.146.02")
    assert "580" in refused(old, LLAMA, "awq-int4-g128", engine=Engine.VLLM)
    assert chosen(old, LLAMA, "Q4_K_M").environment == "llamacpp-cuda12"
    assert chosen(old, SDXL, "fp16").environment == "diffusion-cu126"
    ancient = card("GTX 1080 Ti", driver_version="430.50")
    assert "525" in refused(ancient, LLAMA, "Q4_K_M")


def test_models_that_overflow_in_float16() -> None:
    gemma = ModelSpec(
        "gemma", "Gemma", "chat", "x", None, (Variant("bf16", "safetensors", "bf16", WeightSource("repo", path="x")),),
        TextGeometry("Gemma3ForCausalLM", 1152, 26, 4, 1, 256, 6912, 262144, 32768, True),
    )  # fmt: skip
    assert "overflow" in refused(card("RTX 2080 Ti"), gemma, "bf16")
    assert chosen(card("RTX 3060 Ti"), gemma, "bf16").dtype == "bfloat16"


def test_cpu_card() -> None:
    answer = chosen(SIM, SMOL, "fp32")
    assert (answer.engine, answer.environment, answer.dtype, answer.enforce_eager) == (Engine.VLLM, "vllm-cpu", "float32", True)
    assert chosen(SIM, SMOL, "Q4_1").environment == "llamacpp-cpu"
    assert chosen(SIM, MODELS["digits-sd"], "fp32").environment == "diffusion-cpu"
    assert "avx2" in refused(SIM, SMOL, "fp32", SMALL)
    assert "fma" in refused(SIM, SMOL, "Q4_1", SMALL)
    arm = Host(8 * GIB, 6 * GIB, "Pi", 4, ("asimd",), "aarch64")
    assert "aarch64" in refused(SIM, SMOL, "fp32", arm)
    assert "NF4" in refused(SIM, LLAMA, "bnb-nf4")


def test_an_engine_that_cannot_read_the_format_is_refused() -> None:
    said = refused(SIM, SMOL, "Q4_1", engine=Engine.VLLM)
    assert "vllm reads no gguf checkpoints" in said
    assert "run by llama.cpp" in said
    assert "diffusers" in refused(card("RTX 3060 Ti"), SDXL, "fp16", engine=Engine.VLLM)


def test_offload_is_last_and_never_over_a_riser() -> None:
    def offers(one: Card) -> list[str]:
        answer = choices(one, spec_of(one), BIG, SDXL, pick(SDXL, "fp16"))
        assert not isinstance(answer, EngineRefusal)
        return [choice.offload + (" tiled" if choice.vae_tiling else "") for choice in answer]

    assert offers(card("RTX 3060 Ti@gen3x16")) == ["none", "none tiled", "model", "model tiled"]
    assert offers(card("RTX 3060 Ti@gen1x1")) == ["none", "none tiled"]
    flux, ti = MODELS["flux.1-dev"], card("RTX 3060 Ti@gen3x16")
    int8 = choices(ti, spec_of(ti), BIG, flux, next(variant for variant in flux.variants if variant.id == "bnb-int8"))
    assert not isinstance(int8, EngineRefusal)
    assert {choice.offload for choice in int8} == {"none"}, "8-bit layers can't be moved off the card and back"


def test_bfloat16_for_what_was_published_in_it_where_the_card_computes_in_it() -> None:
    flux, pixart = MODELS["flux.1-dev"], MODELS["pixart-sigma"]
    assert chosen(card("RTX 3060 12GB"), flux, "bf16").dtype == "bfloat16"
    assert any("published" in reason for reason in chosen(card("RTX 3060 12GB"), flux, "bf16").reasons)
    assert chosen(card("RTX 3060 12GB"), pixart, "fp32").dtype == "float16"
    assert chosen(card("RTX 3060 12GB"), SDXL, "fp16").dtype == "float16"
    assert chosen(card("RTX 2080 Ti"), flux, "bf16").dtype == "float16"
    assert chosen(card("P104-100 8GB"), flux, "bf16").dtype == "float32"


def test_unknown_cards() -> None:
    new = Card("GPU-1", "NVIDIA GeForce RTX 5090", "nvidia", 32 * GIB, compute_capability="12.0")
    assert chosen(new, LLAMA, "bf16").dtype == "bfloat16"
    assert chosen(Card("GPU-1", "NVIDIA T1000", "nvidia", 4 * GIB, compute_capability="7.5"), SDXL, "fp16").dtype == "float32"
    assert "Nothing is known" in refused(Card("GPU-1", "What", "nvidia", 8 * GIB), LLAMA, "Q4_K_M")
    assert chosen(Card("0000:01:00.0", "AMD card", "amd", 8 * GIB), LLAMA, "Q4_K_M").environment == "llamacpp-vulkan"
    kepler = Card("GPU-1", "GTX 780", "nvidia", 3 * GIB, compute_capability="3.5")
    assert "5.0" in refused(kepler, LLAMA, "Q4_K_M")


def test_every_card_of_the_table_has_a_kind_and_every_kind_its_sources() -> None:
    for spec in load_cards():
        nominal = spec.vram_bytes or 8 * GIB
        assert kind_of(Card("x", spec.key, spec.vendor, nominal, spec=spec.key), spec) is not None, spec.key
    for kind in KINDS:
        assert kind.sources
        assert kind.vllm is not None or kind.no_vllm
        assert kind.llamacpp is not None or kind.no_llamacpp
        assert kind.diffusion is not None or kind.no_diffusion
