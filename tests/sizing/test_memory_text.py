"""The worked numbers of the text formulas, and what public logs measured."""

from __future__ import annotations

import pytest

from services.sizing.catalogue import load_catalogue
from services.sizing.gguf_mix import gguf_bytes, mix_of
from services.sizing.memory_text import (
    kv_bytes_per_token,
    kv_element_bytes,
    kv_layers,
    llamacpp_compute_bytes,
    llamacpp_kv_bytes,
    step_bytes,
    vllm_activation_bytes,
    vllm_kv_bytes,
)
from services.sizing.memory_weights import gguf_parts, llamacpp_bytes, rotary_cache_bytes, safetensors_bytes, scheme_bytes, scheme_for
from services.sizing.params import TensorShape, tensors_of
from services.sizing.quant import UnknownQuantError, parse_scheme
from services.sizing.types import RecurrentLayers, TextGeometry, TextWorkload, Variant, WeightSource
from tests.sizing.geometry import DEEPSEEK_V3, GEMMA_27B, LLAMA_3B, LLAMA_8B, QWEN3_30B_A3B, QWEN_7B

GIB, MIB = 2**30, 2**20
SOURCE = WeightSource("repo", path="x")


@pytest.mark.parametrize(
    ("quant", "size"),
    [
        ("bf16", 2), ("float32", 4), ("awq-int4-g128", 0.5195), ("awq-g128", 0.5195), ("awq", 0.5195), ("gptq-int4", 0.515625),
        ("gptq-g128-sym", 0.515625), ("awq-g32", 0.578125), ("bnb-nf4", 0.5625), ("bnb-nf4-dq", 0.5159), ("fp8", 1.0002),
        ("w4a16-g128", 0.515625), ("gptq-int8", 1.015625), ("nvfp4", 0.5625), ("moe_wna16 4-bit", 0.515625),
        ("w4a16 (QAT, compressed-tensors)", 0.515625),
    ],
)  # fmt: skip
def test_scheme_worked_numbers(quant: str, size: float) -> None:
    assert parse_scheme(quant).matrix_bytes == pytest.approx(size, abs=5e-5)


@pytest.mark.parametrize("quant", ["", "q9", "awq-g0", "exl3 4.0bpw", "x" * 1000])
def test_unknown_schemes_are_refused(quant: str) -> None:
    with pytest.raises(UnknownQuantError):
        parse_scheme(quant)


def test_weights_of_llama_8b() -> None:
    scheme = parse_scheme("bf16")
    assert scheme_bytes(LLAMA_8B, scheme) == 16_060_522_496
    assert rotary_cache_bytes(LLAMA_8B, 2) == 33_554_432
    loaded = scheme_bytes(LLAMA_8B, scheme) + rotary_cache_bytes(LLAMA_8B, 2)
    assert loaded / GIB == pytest.approx(14.9888, abs=1e-4), "as vLLM logs it"


def test_embeddings_stay_16_bit() -> None:
    loaded = scheme_bytes(QWEN_7B, parse_scheme("awq-g128")) + rotary_cache_bytes(QWEN_7B, 2)
    assert loaded / GIB == pytest.approx(5.20, rel=0.002), "not 7.6e9 x 0.55 = 3.9 GiB"


def test_catalogue_bytes_win_and_follow_the_dtype() -> None:
    exact = Variant("bf16", "safetensors", "bf16", SOURCE, weight_bytes=1000)
    assert safetensors_bytes(LLAMA_8B, exact, 2) == 1000
    assert safetensors_bytes(LLAMA_8B, exact, 4) == 2000
    packed = Variant("awq", "safetensors", "awq-int4-g128", SOURCE, weight_bytes=1000)
    assert safetensors_bytes(LLAMA_8B, packed, 2) == 1000


def test_gguf_sizes_are_those_of_the_quantizer() -> None:
    assert gguf_parts(LLAMA_3B, "Q4_K_M") == (2_011_539_456, 323_205_120, 0)
    tied = Variant("q", "gguf", "Q4_K_M", SOURCE)
    assert llamacpp_bytes(LLAMA_3B, tied, on_gpu=True)[0] / MIB == pytest.approx(1918.36, abs=0.02), "llm-103: model buffer as logged"
    on_card, on_host = llamacpp_bytes(LLAMA_8B, tied, on_gpu=True)
    assert on_card + on_host == llamacpp_bytes(LLAMA_8B, tied, on_gpu=False)[0]
    assert on_host == 128256 * 4096 * 4.5 / 8


def test_one_matrix_at_q4_k() -> None:
    tensor = TensorShape("blk.0.attn_q", "linear", (4096, 4096), 0)
    assert gguf_bytes([tensor], "Q4_K_M", kv_head_group=4, tied=False, experts=0) == {"blk.0.attn_q": 9_437_184}


def test_rows_that_do_not_divide_fall_back() -> None:
    tensor = TensorShape("blk.0.attn_q", "linear", (896, 896), 0)
    assert gguf_bytes([tensor], "Q4_K_M", kv_head_group=7, tied=True, experts=0)["blk.0.attn_q"] == 896 * 896 * 5.5 / 8


@pytest.mark.parametrize("name", ["UD-Q4_K_M", "q4_k_m", "Q4_K"])
def test_mix_names(name: str) -> None:
    assert mix_of(name) == "Q4_K_M"


def test_unknown_mix_is_refused() -> None:
    with pytest.raises(UnknownQuantError):
        mix_of("Q17_Z")


def test_kv_worked_numbers() -> None:
    assert kv_bytes_per_token(LLAMA_8B, 2) == 4096
    assert vllm_kv_bytes(LLAMA_8B, 4096, 8, 2) == 4 * GIB
    assert vllm_kv_bytes(LLAMA_8B, 1, 1, 2) == 131_072 * 16, "whole blocks"
    assert vllm_kv_bytes(LLAMA_8B, 1, 1, 2, block_tokens=128) == 131_072 * 128, "vLLM's CPU build has blocks of 128"
    assert kv_bytes_per_token(LLAMA_8B, 2, tensor_parallel=16) == 2 * 1 * 128 * 2, "replicated, not split"
    assert kv_bytes_per_token(DEEPSEEK_V3, 2) == (512 + 64) * 2
    assert kv_element_bytes("q8_0", 2) == 34 / 32
    with pytest.raises(ValueError, match="no KV cache dtype"):
        kv_element_bytes("int3", 2)


def test_kv_of_windows_and_recurrent_layers() -> None:
    layers = kv_layers(GEMMA_27B)
    assert (layers.full, layers.window) == (10, 52)
    short, long = vllm_kv_bytes(GEMMA_27B, 1024, 1, 2), vllm_kv_bytes(GEMMA_27B, 131072, 1, 2)
    every_layer = 62 * kv_bytes_per_token(GEMMA_27B, 2) * 131072
    assert short < long < every_layer / 4
    hybrid = TextGeometry(
        "Qwen3NextForCausalLM", 2048, 48, 16, 2, 256, 5120, 151936, 262144, False,
        recurrent=RecurrentLayers("gated_delta", 36, 4, 32, 128, 16, 128),
    )  # fmt: skip
    found = kv_layers(hybrid)
    assert found.full == 12
    assert found.state_bytes == 36 * (3 * (4096 + 2 * 2048) + 4096 * 128) * 2


def test_activation_worked_numbers() -> None:
    assert vllm_activation_bytes(QWEN_7B, TextWorkload(2048, 256), 2) / GIB == pytest.approx(1.42, abs=0.005)
    assert vllm_activation_bytes(LLAMA_3B, TextWorkload(2048, 192), 2) / GIB == pytest.approx(0.90, abs=0.005), "llm-135"
    assert step_bytes(LLAMA_8B, 29_000, 2) / GIB == pytest.approx(2.99, abs=0.005), "llm-054"
    assert vllm_activation_bytes(LLAMA_8B, TextWorkload(4096, 1), 4) == 2 * vllm_activation_bytes(LLAMA_8B, TextWorkload(4096, 1), 2)
    assert step_bytes(QWEN3_30B_A3B, 1000, 2) == 1000 * (3 * 8 * 768 + 11 * 2048) * 2


def test_llamacpp_worked_numbers() -> None:
    assert llamacpp_kv_bytes(LLAMA_3B, 2048, 1, 2) == 224 * MIB
    assert llamacpp_compute_bytes(QWEN_7B, 2048) == 304 * MIB
    one_b = TextGeometry("LlamaForCausalLM", 2048, 16, 32, 8, 64, 8192, 128256, 131072, True)
    naive = llamacpp_compute_bytes(one_b, 131072, flash_attention=False)
    assert naive / MIB == pytest.approx(8849.72, rel=0.05), "llm-112: the request that an 8 GB card could not give a 1B model"
    assert llamacpp_kv_bytes(LLAMA_3B, 1, 1, 2) == llamacpp_kv_bytes(LLAMA_3B, 256, 1, 2)


def test_gemmas_per_layer_table_is_billed_where_each_engine_puts_it() -> None:
    """llama.cpp: an input tensor, in host RAM (ggml-org/llama.cpp#14400). vLLM: an embedding, on the card."""
    model = load_catalogue().get("gemma-4-e4b-it")
    assert model.text is not None
    table = 262144 * 42 * 256
    gguf = next(variant for variant in model.variants if variant.quant.lower() == "q4_k_m" and variant.format == "gguf")
    everything, token_table, layer_table = gguf_parts(model.text, gguf.quant)
    scale = (gguf.weight_bytes or everything) / everything
    on_card, on_host = llamacpp_bytes(model.text, gguf, on_gpu=True)
    assert 0.5 * table < layer_table < 1.1 * table, "between 4 and 8 bits an element"
    assert on_host == pytest.approx(scale * (token_table + layer_table), rel=1e-6)
    assert on_card == pytest.approx(scale * (everything - layer_table), rel=1e-6), "tied: the token table is there twice"
    assert llamacpp_bytes(model.text, gguf, on_gpu=False) == (gguf.weight_bytes or everything, 0)
    assert scheme_bytes(model.text, parse_scheme("bf16")) > 2 * table, "vLLM: 5.25 GiB of the card"


def test_nvfp4_checkpoints_keep_attention_wider() -> None:
    """As hf_quant_config.json of nvidia/Qwen3.6-27B-NVFP4 and Gemma-4-31B-IT-NVFP4 list their layers."""
    hybrid, gemma, plain = (load_catalogue().get(name).text for name in ("qwen3.6-27b", "gemma-4-31b-it", "qwen3-32b"))
    assert hybrid is not None
    assert gemma is not None
    assert plain is not None
    four_bit = parse_scheme("nvfp4")
    assert scheme_for(plain, "nvfp4") == four_bit
    linear = [tensor for tensor in tensors_of(hybrid) if tensor.role == "linear"]
    attention = sum(tensor.elements for tensor in linear if ".attn_" in tensor.name or tensor.name.endswith("ssm_out"))
    gates = sum(tensor.elements for tensor in linear if tensor.name.endswith("ssm_ba"))
    head = hybrid.vocab_size * hybrid.hidden_size
    more = scheme_bytes(hybrid, scheme_for(hybrid, "nvfp4")) - scheme_bytes(hybrid, four_bit)
    expected = attention * (1 - 0.5625) + gates * (2 - 0.5625) - head * (2 - 0.5625)
    assert more == pytest.approx(expected, rel=1e-6), "attention in FP8, gates in 16 bit, lm_head in 4"
    assert scheme_bytes(gemma, scheme_for(gemma, "nvfp4")) > scheme_bytes(gemma, four_bit), "attention in 16 bit"
