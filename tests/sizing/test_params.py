"""Tensor lists from geometry: the worked number, the shapes that differ between families, what a token meets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.catalogue import load_catalogue
from services.sizing.params import MAX_LAYERS, active_params, count_params, layout_of, tensors_of
from services.sizing.types import TextGeometry

CATALOGUE = load_catalogue()


def text(model_id: str) -> TextGeometry:
    geometry = CATALOGUE.get(model_id).text
    assert geometry is not None
    return geometry


def shapes(model_id: str, layer: int) -> dict[str, tuple[int, ...]]:
    prefix = f"blk.{layer}."
    return {tensor.name.removeprefix(prefix): tensor.shape for tensor in tensors_of(text(model_id)) if tensor.layer == layer}


def test_the_worked_number() -> None:
    assert 128256 * 4096 * 2 + 32 * (4096 * 4096 * 2 + 1024 * 4096 * 2 + 3 * 14336 * 4096 + 2 * 4096) + 4096 == 8_030_261_248
    assert count_params(text("llama-3.1-8b-instruct")) == 8_030_261_248


def test_families_differ_as_their_files_do() -> None:
    assert shapes("llama-3.1-8b-instruct", 0)["attn_k"] == (1024, 4096)
    assert shapes("qwen2.5-7b-instruct", 0)["attn_q.bias"] == (3584,)
    assert shapes("qwen3-8b", 0)["attn_q_norm"] == (128,)
    assert shapes("olmo-2-1124-7b-instruct", 0)["attn_q_norm"] == (4096,)
    assert shapes("phi-4-mini-instruct", 0)["attn_qkv"] == (3072 + 2 * 1024, 3072)
    assert shapes("qwen3-30b-a3b-instruct-2507", 5)["ffn_down_exps"] == (128, 2048, 768)
    assert "ffn_gate_exps" not in shapes("deepseek-coder-v2-lite-instruct", 0)
    assert "ffn_gate_exps" in shapes("deepseek-coder-v2-lite-instruct", 1)
    assert shapes("deepseek-coder-v2-lite-instruct", 1)["attn_kv_a_mqa"] == (512 + 64, 2048)


def test_hybrids_have_as_many_layers_of_each_kind_as_they_say() -> None:
    mixers = [name for tensor in tensors_of(text("qwen3.5-9b")) if (name := tensor.name.split(".", 2)[-1]) in ("ssm_out", "attn_output")]
    assert (mixers.count("ssm_out"), mixers.count("attn_output")) == (24, 8)
    wide = [tensor for tensor in tensors_of(text("gemma-4-e4b-it")) if tensor.name.endswith("attn_q") and tensor.shape[0] == 8 * 512]
    assert len(wide) == 7


@pytest.mark.parametrize(
    ("model_id", "published_billions", "counts_embedding"),
    [
        ("qwen3-30b-a3b-instruct-2507", 3.3, True),
        ("olmoe-1b-7b-0924-instruct", 1.3, True),
        ("gpt-oss-20b", 3.6, False),
        ("deepseek-coder-v2-lite-instruct", 2.4, False),
    ],
)
def test_a_token_meets_the_published_share_of_a_sparse_model(model_id: str, published_billions: float, counts_embedding: bool) -> None:
    """As their model cards round it; OpenAI and DeepSeek leave the embedding out, of which a token meets one row."""
    geometry = text(model_id)
    left_out = 0 if counts_embedding else geometry.vocab_size * geometry.hidden_size
    assert (active_params(geometry) - left_out) / 1e9 == pytest.approx(published_billions, abs=0.06)


def test_a_dense_model_is_met_whole() -> None:
    assert active_params(text("qwen3-8b")) == count_params(text("qwen3-8b"))


def test_an_unknown_family_counts_as_a_plain_decoder() -> None:
    assert layout_of("SomethingNewForCausalLM") == layout_of("LlamaForCausalLM")
    geometry = replace(text("llama-3.2-1b-instruct"), architecture="SomethingNewForCausalLM")
    assert count_params(geometry) == 1_235_814_400


def test_a_million_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="not a text model"):
        tensors_of(replace(text("qwen3-8b"), num_hidden_layers=MAX_LAYERS + 1))
