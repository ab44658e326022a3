"""Cases: published runs come out as logged, `measured` is never read, and no case can make it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sizing.case_fields import held_by_others_gib
from services.sizing.case_geometry import CaseError, image_pipeline, plain_name, text_geometry
from services.sizing.cases import QUANTITIES, evaluate
from services.sizing.memory_weights import allocated_bytes

MIB = 2**20
ARCH = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "intermediate_size": 14336, "tie_word_embeddings": False, "max_position_embeddings": 131072,
}  # fmt: skip
RUN: dict[str, Any] = {
    "id": "a", "kind": "llm", "engine": "vllm", "engine_version": "0.7.2", "model": "Llama-3.1-8B-Instruct", "arch": ARCH, "quant": "bf16",
    "gpu": "NVIDIA L4 24GB", "gpu_vram_gib": 22.07, "gpu_memory_utilization": 0.9, "max_model_len": 131072,
}  # fmt: skip


def test_a_vllm_run() -> None:
    answer = evaluate(RUN)
    assert set(QUANTITIES) <= set(answer)
    assert answer["weights_gib"] == pytest.approx(14.9888, abs=1e-3)
    assert answer["activation_peak_gib"] == pytest.approx(0.22, abs=0.015)
    assert answer["kv_available_gib"] == pytest.approx(4.60, abs=0.02)
    assert answer["kv_tokens"] == pytest.approx(37696, rel=0.005)
    assert answer["verdict"] == "does_not_fit", "one request of 131072 tokens needs 16 GiB"
    assert evaluate({**RUN, "max_model_len": 30000})["verdict"] == "does_not_fit", "un-chunked, the profile itself takes what is left"
    assert evaluate({**RUN, "max_model_len": 37000})["verdict"] == "tight"
    json.dumps(answer, allow_nan=False)


def test_what_was_measured_is_never_read() -> None:
    lying = {**RUN, "measured": {"weights_gib": 1.0, "outcome": "fits"}, "notes": "it fits", "quote": "all of it"}
    assert evaluate(lying) == evaluate(RUN)


def test_the_version_decides_the_profile() -> None:
    short = {**RUN, "max_model_len": 8192, "max_num_seqs": 256}
    sampled = evaluate({**short, "engine_version": "0.28.0"})["activation_peak_gib"]
    old = evaluate({**short, "engine_version": "0.8.5 V0"})["activation_peak_gib"]
    assert sampled == pytest.approx(8192 * 3 * (14336 + 4096) * 2 / 2**30, abs=1e-3), "a step of 8192; runner V2 does not sort"
    assert old == pytest.approx(39.2 * 256 * 128256 / 2**30, abs=1e-3)


def test_other_programs_on_the_card() -> None:
    held = {**RUN, "gpu": "NVIDIA L4 24GB (other service holds 4.79GiB)", "max_model_len": 8192}
    assert held_by_others_gib(held) == 4.79
    assert evaluate(held)["verdict"] == "does_not_fit"
    assert evaluate({**held, "gpu": "NVIDIA L4"})["verdict"] in ("fits", "tight")


def test_tensor_parallel_and_allocator_rounding() -> None:
    arch = {**ARCH, "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40, "vocab_size": 152064, "qkv_bias": True,
            "intermediate_size": 27648, "max_position_embeddings": 32768}  # fmt: skip
    answer = evaluate({**RUN, "model": "Qwen/Qwen2.5-32B-Instruct", "arch": arch, "tensor_parallel": 2, "max_model_len": 10000})
    assert answer["weights_gib"] == pytest.approx(30.7098, rel=1e-3), "llm-019"
    assert allocated_bytes(31.5 * MIB) == 32 * MIB
    assert allocated_bytes(52.5 * MIB) == 52.5 * MIB


def test_llamacpp_transformers_and_images() -> None:
    small = {"engine": "llama.cpp", "model": "Llama-3.2-3B-Instruct Q4_K_M", "quant": "q4_k_m", "max_model_len": 2048, "gpu_vram_gib": 8}
    answer = evaluate(small)
    assert answer["weights_gib"] == pytest.approx(1.8734, abs=1e-3)
    assert answer["kv_available_gib"] == pytest.approx(0.2188, abs=1e-3)
    assert answer["verdict"] == "fits"
    resident = {"engine": "transformers", "engine_version": "4.51.3", "model": "Qwen/Qwen3-8B", "arch": {
        "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151936, "intermediate_size": 12288, "tie_word_embeddings": False, "max_position_embeddings": 40960},
        "quant": "bf16", "prefill": 30720, "decode": 2048, "batch_size": 1}  # fmt: skip
    assert evaluate(resident)["total_peak_gib"] == pytest.approx(19.792, rel=0.005)
    flux = {"kind": "image", "engine": "diffusers", "model": "black-forest-labs/FLUX.1-dev", "pipeline": "FluxPipeline", "quant": "bf16",
            "resolution": "1024x1024", "batch_size": 8, "offload": "none", "gpu_vram_gib": 79.2}  # fmt: skip
    assert evaluate(flux)["weights_gib"] == pytest.approx(31.438, rel=1e-3)
    assert evaluate(flux)["total_peak_gib"] == pytest.approx(47.509, rel=0.02)
    assert evaluate(flux)["kv_tokens"] is None
    assert evaluate({**flux, "offload": "model_cpu_offload", "batch_size": 1})["total_peak_gib"] == pytest.approx(23.271, rel=0.005)
    assert evaluate({**flux, "gpu_vram_gib": 24})["verdict"] == "does_not_fit"
    assert evaluate({**flux, "gpu_vram_gib": None})["verdict"] is None


@pytest.mark.parametrize(
    ("name", "plain"),
    [("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b"), ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b"),
     ("RedHatAI/Qwen3-32B-quantized.w4a16", "qwen3-32b"), ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b"),
     ("Llama-3.2-3B-Instruct Q4_K_M", "llama-3.2-3b")],
)  # fmt: skip
def test_names_without_packing(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_geometries_by_name() -> None:
    assert text_geometry("codellama/CodeLlama-7b-Instruct-hf", None).vocab_size == 32016
    assert text_geometry("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", None).vision_params > 600e6
    assert text_geometry("meta-llama/Llama-3.1-8B-Instruct", None).num_key_value_heads == 8, "from the catalogue"
    assert sum(image_pipeline("stabilityai/stable-diffusion-xl-base-1.0").components.values()) == 3_468_837_867
    with pytest.raises(CaseError, match="arch"):
        text_geometry("nobody/knows-this", None)


@pytest.mark.parametrize(
    "change",
    [
        {"model": None}, {"model": 7}, {"model": "nobody/knows-this", "arch": None}, {"arch": []}, {"arch": {"hidden_size": -1}},
        {"arch": {**ARCH, "num_hidden_layers": 10**9}}, {"arch": {**ARCH, "vocab_size": "many"}}, {"quant": "q77"}, {"quant": {}},
        {"gpu_vram_gib": -1}, {"gpu_vram_gib": float("nan")}, {"gpu_vram_gib": "plenty"}, {"gpu_memory_utilization": 1.5},
        {"max_model_len": 0}, {"max_model_len": 1e300}, {"max_model_len": 10.5}, {"tensor_parallel": 0}, {"enforce_eager": "perhaps"},
        {"max_num_seqs": True}, {"resolution": "big"}, {"kind": "image", "model": "unknown-painter"},
    ],
)  # fmt: skip
def test_bad_cases_are_one_sentence(change: dict[str, Any]) -> None:
    answer = evaluate({**RUN, **change})
    assert set(answer) == {"id", "error"}, answer
    assert answer["id"] == "a"
    assert 10 < len(answer["error"]) < 400


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*RUN, "pipeline", "resolution", "offload", "prefill", "decode", "kv_dtype", "batch_size"]), JUNK))
def test_no_case_can_make_it_fail(change: dict[str, Any]) -> None:
    answer = evaluate({**RUN, **change})
    assert "error" in answer or set(QUANTITIES) <= set(answer)
    json.dumps(answer)
