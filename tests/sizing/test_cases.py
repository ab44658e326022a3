"""Cases: published runs come out as logged, `measured` is never read, and no case can make it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sizing.case_fields import held_by_others_gib
from services.sizing.case_geometry import CaseError, image_pipeline, plain_name, text_geometry
from services.sizing.case_quant import case_scheme
from services.sizing.cases import QUANTITIES, evaluate
from services.sizing.memory_weights import allocated_bytes
from services.sizing.vllm_rules import version_of

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
    assert evaluate({**flux, "offload": "model_cpu_offload", "batch_size": 1})["total_peak_gib"] == pytest.approx(23.271, rel=0.03)
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


@pytest.mark.parametrize(
    ("quant", "bytes_per_matrix_element"),
    [("AWQ 4bit group 32", 0.578125), ("GPTQ-Int4", 0.515625), ("exl3 4.0bpw", 0.515625),
     ("4-bit (18.19 GiB)", 0.515625), ("NVFP4A16", 0.5625), ("unsloth dynamic 4-bit", 0.5159),
     ("bitsandbytes", 0.5625), ("fp8_dynamic", 1.0002),
     ("compressed-tensors w8a8", 1.001), ("unquantized", 2), ("auto", 2), ("int8", 1.001), ("autoround int4", 0.515625)],
)  # fmt: skip
def test_quantizations_in_any_spelling(quant: str, bytes_per_matrix_element: float) -> None:
    assert case_scheme(quant).matrix_bytes == pytest.approx(bytes_per_matrix_element, rel=0.001)
    assert "error" not in evaluate({**RUN, "quant": quant})


def test_numbers_flags_and_versions_in_any_spelling() -> None:
    odd = {**RUN, "gpu_vram_gib": "22.07 GiB", "gpu_memory_utilization": "0.9", "max_model_len": "131,072", "enforce_eager": "false",
           "engine_version": "v0.7.2", "max_num_seqs": None, "tensor_parallel": "", "kv_dtype": None}  # fmt: skip
    assert evaluate(odd) == evaluate(RUN)
    assert evaluate({**RUN, "engine_version": None, "engine": "vllm 0.7.2"}) == evaluate(RUN)
    gguf = {**RUN, "engine": "llama.cpp", "quant": "UD-Q4_K_XL"}
    assert evaluate(gguf) == evaluate({**gguf, "quant": "4-bit"}) == evaluate({**gguf, "quant": "q4_k_m"})
    assert evaluate({**RUN, "engine_version": 0.28}) == evaluate({**RUN, "engine_version": "vLLM 0.28.0"})


@pytest.mark.parametrize(
    ("written", "model", "generation", "minor"),
    [("0.28.0", "", "v1", 28), ("0.8.5.post1 V0", "", "v0-sampled", 8), ("2024-12", "", "old", None), ("0.7.x (2025-03)", "", "v0", 7),
     ("", "google/gemma-4-E4B-it", "v1", 19), ("", "Qwen3.5-9B AWQ", "v1", 17), ("", "Llama-3.1-8B", "v1", None), ("main", "x", "v1", None),
     ("0.16.1rc1.dev206+g097eb544e V1", "", "v1", 16), ("V0", "", "v0", None), ("nightly v1", "", "v1", None)],
)  # fmt: skip
def test_versions(written: str, model: str, generation: str, minor: int | None) -> None:
    version = version_of(written, model)
    assert (version.generation, version.minor) == (generation, minor)


def test_what_newer_versions_count() -> None:
    """Public logs of Qwen2.5-1.5B and Qwen2.5-7B-AWQ: weights 2.89 GiB on 0.7.2, 2.98 and 5.29 on 0.28; a step of 8192 tokens 1.04."""
    small = {"engine": "vllm", "model": "Qwen/Qwen2.5-1.5B-Instruct", "quant": "fp16", "gpu": "L4", "gpu_vram_gib": 22.04}
    assert evaluate({**small, "engine_version": "0.7.2"})["weights_gib"] == pytest.approx(2.885, abs=0.005)
    assert evaluate({**small, "engine_version": "0.28.0"})["weights_gib"] == pytest.approx(2.98, abs=0.01)
    awq = {**small, "model": "Qwen/Qwen2.5-7B-Instruct-AWQ", "quant": "awq", "engine_version": "0.28.0", "gpu_memory_utilization": 0.6}
    answer = evaluate(awq)
    assert answer["weights_gib"] == pytest.approx(5.29, abs=0.02)
    assert answer["activation_peak_gib"] == pytest.approx(1.04, abs=0.02)
    assert answer["kv_available_gib"] == pytest.approx(6.6, abs=0.1)
    default = evaluate({**awq, "gpu_memory_utilization": None})["kv_available_gib"]
    assert default - answer["kv_available_gib"] == pytest.approx((0.92 - 0.6) * 22.04, abs=1e-3), "0.92 by default from 0.21"


def test_unified_memory_counts_the_hosts_part() -> None:
    orin = {**RUN, "gpu": "Jetson AGX Orin 32GB unified"}
    less = evaluate({**RUN, "gpu": "x"})["kv_available_gib"] - evaluate(orin)["kv_available_gib"]
    assert less == pytest.approx(3.4e9 / 2**30, abs=1e-3)
