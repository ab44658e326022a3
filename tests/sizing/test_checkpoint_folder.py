"""Whole checkpoints: which files count, what config.json says, diffusers folders."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sizing.catalogue import MODELS_FOLDER, load_catalogue
from services.sizing.checkpoint import CheckpointError, LocalFolder
from services.sizing.checkpoint_config import geometry_of_config, quant_of_config
from services.sizing.checkpoint_folder import read_checkpoint, read_path
from services.sizing.params import count_params, tensors_of
from tests.sizing.checkpoint_bytes import TINY_CONFIG, MemoryFiles, entry, safetensors, tiny_gguf

ONE = safetensors({"a": entry("BF16", [4, 4], 0, 32)}, bytes(32))


def folder(**contents: bytes | dict[str, Any]) -> MemoryFiles:
    """`a__b=...` is the file a/b; underscores are otherwise kept and `.` written as `_DOT_`."""
    named = {name.replace("__", "/").replace("_DOT_", "."): content for name, content in contents.items()}
    return MemoryFiles({name: content if isinstance(content, bytes) else json.dumps(content).encode() for name, content in named.items()})


def config(**change: Any) -> dict[str, Any]:
    return {**TINY_CONFIG, **change}


def test_a_model_folder_is_its_safetensors_and_its_config() -> None:
    shapes = tensors_of(geometry_of_config(TINY_CONFIG))
    header, offset = {}, 0
    for shape in shapes:
        header[f"model.{shape.name}"] = entry("BF16", shape.shape, offset, offset + 2 * shape.elements)
        offset += 2 * shape.elements
    checkpoint = read_checkpoint(folder(model_DOT_safetensors=safetensors(header, bytes(offset)), config_DOT_json=TINY_CONFIG))
    assert checkpoint.text is not None
    assert checkpoint.weight_bytes == 2 * count_params(checkpoint.text)
    assert checkpoint.quant == "bf16"


def test_digits_sd_weighs_what_the_catalogue_says() -> None:
    checkpoint = read_path(MODELS_FOLDER / "digits-sd")
    model = load_catalogue().get("digits-sd")
    assert model.image is not None
    assert checkpoint.image is not None
    assert checkpoint.weight_bytes == model.variants[0].weight_bytes
    assert checkpoint.file_bytes == model.variants[0].file_bytes
    assert checkpoint.quant == "fp32"
    assert set(checkpoint.image.components) == set(model.image.components)
    assert (checkpoint.image.native_px, checkpoint.image.multiple_px) == (model.image.native_px, model.image.multiple_px)


def test_a_split_counts_as_one_and_a_missing_part_is_an_error() -> None:
    whole = folder(
        **{"model-00001-of-00002_DOT_safetensors": ONE, "model-00002-of-00002_DOT_safetensors": ONE, "config_DOT_json": TINY_CONFIG}
    )
    assert read_checkpoint(whole).weight_bytes == 64
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing: 1 of the 2 parts"):
        read_checkpoint(folder(**{"model-00001-of-00002_DOT_safetensors": ONE}))
    with pytest.raises(CheckpointError, match="a split of 99999 parts"):
        read_checkpoint(folder(**{"model-00001-of-99999_DOT_safetensors": ONE}))


def test_weights_that_are_there_twice_count_once() -> None:
    files = folder(model_DOT_safetensors=ONE, consolidated_DOT_safetensors=ONE, config_DOT_json=TINY_CONFIG)
    assert read_checkpoint(files).weight_bytes == 32


def test_a_gguf_is_found_or_must_be_named() -> None:
    assert read_checkpoint(folder(m_DOT_gguf=tiny_gguf())).format == "gguf"
    two = folder(a_DOT_gguf=tiny_gguf(), b_DOT_gguf=tiny_gguf())
    with pytest.raises(CheckpointError, match=r"2 GGUF files are here; name one of them: a\.gguf, b\.gguf"):
        read_checkpoint(two)
    assert read_checkpoint(two, "b.gguf").quant == "Q4_0"


@pytest.mark.parametrize(
    ("contents", "name", "said"),
    [
        ({}, None, "this is not a checkpoint"),
        ({"pytorch_model_DOT_bin": b"x", "config_DOT_json": TINY_CONFIG}, None, "pickles"),
        ({"model_DOT_pt": b"x"}, "model.pt", "is a pickle"),
        ({"a_DOT_txt": b"x"}, "a.txt", "neither a .safetensors nor a .gguf"),
        ({"a_DOT_txt": b"x"}, "../../etc/passwd", "is not among the 1 files here"),
        ({"model_index_DOT_json": {}}, None, "no unet or transformer"),
        ({"model_index_DOT_json": b"[]"}, None, "a JSON object is needed"),
        ({"model_index_DOT_json": {"unet": ["diffusers", "U"]}, "unet__model_DOT_bin": b"x"}, None, "pickles"),
        ({"model_DOT_safetensors": ONE, "config_DOT_json": b"{"}, None, "not valid JSON"),
        ({"model_DOT_safetensors": ONE, "config_DOT_json": b" " * 5_000_000}, None, "bytes of JSON"),
    ],
)
def test_what_is_no_checkpoint_is_refused(contents: dict[str, Any], name: str | None, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder(**contents), name)
    assert said in str(caught.value)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(ONE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert LocalFolder(tmp_path / "model").sizes() == {}
    with pytest.raises(CheckpointError, match="is not a folder"):
        read_checkpoint(LocalFolder(tmp_path / "nowhere"))


def test_the_fp16_files_of_a_pipeline_are_taken_once() -> None:
    files = folder(
        model_index_DOT_json={"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"],
                              "safety_checker": ["stable_diffusion", "S"], "feature_extractor": [None, None]},
        **{"unet__diffusion_pytorch_model_DOT_safetensors": ONE, "unet__diffusion_pytorch_model_DOT_fp16_DOT_safetensors": ONE,
           "unet__diffusion_pytorch_model_DOT_non_ema_DOT_safetensors": ONE, "vae__diffusion_pytorch_model_DOT_safetensors": ONE,
           "safety_checker__model_DOT_safetensors": ONE, "unet__config_DOT_json": {"sample_size": 64},
           "vae__config_DOT_json": {"block_out_channels": [128, 256, 512, 512]}},
    )  # fmt: skip
    checkpoint = read_checkpoint(files)
    assert checkpoint.image is not None
    assert checkpoint.weight_bytes == 64
    assert (checkpoint.image.native_px, checkpoint.image.multiple_px, checkpoint.image.uses_cfg) == (512, 8, True)
    assert [part.role for part in checkpoint.image.components] == ["denoiser", "vae"]


# Published config.json values, and what they must come to.
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, object]]] = {
    "mistral window": (config(model_type="mistral", sliding_window=4096), {"sliding_window_tokens": 4096, "sliding_window_layers": 1}),
    "mistral none": (config(model_type="mistral", sliding_window=None), {"sliding_window_tokens": None}),
    "qwen2 off": (config(model_type="qwen2", sliding_window=131072, use_sliding_window=False), {"sliding_window_layers": None}),
    "gemma2": (
        config(model_type="gemma2", num_hidden_layers=26, sliding_window=4096, head_dim=256, tie_word_embeddings=None),
        {"sliding_window_layers": 13, "norms_per_layer": 4, "head_dim": 256, "tie_word_embeddings": True},
    ),
    "gemma3 vision": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {"hidden_size": 1152},
         "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                         "sliding_window": 1024}},
        {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208, "sliding_window_layers": 29, "qk_norm": True},
    ),
    "gpt-oss": (
        config(model_type="gpt_oss", num_hidden_layers=24, sliding_window=128, num_local_experts=32, num_experts_per_tok=4,
               layer_types=["sliding_attention", "full_attention"] * 12),
        {"sliding_window_layers": 12, "num_experts": 32, "num_experts_per_tok": 4},
    ),
    "deepseek mla": (
        config(model_type="deepseek_v2", kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, q_lora_rank=None,
               n_routed_experts=64, n_shared_experts=2, moe_intermediate_size=1408, num_experts_per_tok=6, first_k_dense_replace=1),
        {"mla_kv_lora_rank": 512, "shared_expert_intermediate_size": 2816, "num_dense_layers": 1, "mla_q_lora_rank": None},
    ),
    "gemma4 e4b": (
        {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "text_config": {
            "model_type": "gemma4_text", "hidden_size": 2560, "num_hidden_layers": 42, "intermediate_size": 10240, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512, "num_kv_shared_layers": 18,
            "hidden_size_per_layer_input": 256, "sliding_window": 512, "vocab_size": 262144, "max_position_embeddings": 131072,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 7}},
        {"kv_layers": 24, "sliding_window_layers": 20, "full_attention_head_dim": 512, "per_layer_embedding_size": 256},
    ),
    "lfm2": (
        config(model_type="lfm2", num_hidden_layers=16, intermediate_size=12288, block_auto_adjust_ff_dim=True, block_multiple_of=256,
               layer_types=["conv"] * 10 + ["full_attention"] * 6, conv_L_cache=3),
        {"intermediate_size": 8192, "kv_layers": 6},
    ),
    "nomic names": (
        {"model_type": "nomic_bert", "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "n_positions": 8192, "vocab_size": 30528},
        {"hidden_size": 768, "num_hidden_layers": 12, "max_position_embeddings": 8192, "intermediate_size": 3072},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given_config", "wanted"), CONFIGS.values(), ids=CONFIGS)
def test_configs_of_the_families_are_understood(given_config: dict[str, Any], wanted: dict[str, object]) -> None:
    geometry = geometry_of_config(given_config)
    assert {name: getattr(geometry, name) for name in wanted} == wanted


def test_a_hybrid_keeps_a_cache_in_few_layers() -> None:
    geometry = geometry_of_config(
        config(model_type="qwen3_next", num_hidden_layers=48, full_attention_interval=4, linear_num_value_heads=32, linear_num_key_heads=16,
               linear_value_head_dim=128, linear_key_head_dim=128, linear_conv_kernel_dim=4)
    )  # fmt: skip
    assert geometry.recurrent is not None
    assert (geometry.kv_layers, geometry.recurrent.layers, geometry.recurrent.kind) == (12, 36, "gated_delta")


@pytest.mark.parametrize(
    ("settings", "quant"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "awq-int4-g128"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 32}}, "gptq-int8-g32"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "bnb-nf4"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bnb-int8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"dtype": "float16"}, "fp16"),
        ({"torch_dtype": ["bfloat16"]}, None),
        ({}, None),
    ],
)
def test_quantization_gets_its_short_name(settings: dict[str, Any], quant: str | None) -> None:
    assert quant_of_config(settings) == quant


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": -64}, "hidden_size is '-64'"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": True}, "hidden_size is 'True'"),
        ({"num_hidden_layers": 2**39}, "no model has more than"),
        ({"num_hidden_layers": 2**70}, "a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is missing or 0"),
        ({"architectures": None, "model_type": None}, "names no architecture"),
        ({"kv_lora_rank": 512}, "qk_rope_head_dim is missing"),
        ({"num_experts": 4, "n_shared_experts": 2**40, "moe_intermediate_size": 2**40}, "no model has such"),
    ],
)
def test_configs_that_make_no_model_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        geometry_of_config(config(**change))
    assert said in str(caught.value)


_odd = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=9), max_size=3) | st.just(2**40)
_keys = st.sampled_from(
    [*TINY_CONFIG, "layer_types", "sliding_window", "kv_lora_rank", "num_experts", "text_config", "head_dim", "linear_num_value_heads",
     "mamba_n_heads", "mlp_layer_types", "quantization_config", "sliding_window_pattern", "first_k_dense_replace"]
)  # fmt: skip


@given(st.dictionaries(_keys, _odd | st.dictionaries(_keys, _odd, max_size=3), max_size=6))
def test_any_config_ends_in_a_geometry_or_a_refusal(change: dict[str, Any]) -> None:
    with suppress(CheckpointError):
        geometry = geometry_of_config({**TINY_CONFIG, **change})
        assert count_params(geometry) > 0
        assert (geometry.sliding_window_layers or 0) <= geometry.num_hidden_layers
    quant_of_config({**TINY_CONFIG, **change})
