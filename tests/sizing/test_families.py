"""Geometries of families by hub name: each has the size that its name says, and no name is taken for another model."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
import yaml

from services.sizing.case_geometry import CaseError, text_geometry
from services.sizing.params import count_params

FILES = ("geometries_families.yaml", "geometries_others.yaml")
ROWS = [row for name in FILES for row in yaml.safe_load((files("services.sizing") / name).read_text(encoding="utf8"))["text"]]
# Published totals (billions) where the name says none, or rounds or leaves out parts; Falcon-7B with its tied head once.
PUBLISHED = {
    "mixtral-8x22b": 140.6, "mistral-small": 22.2, "devstral-small": 23.6, "mistral-large": 122.6, "gemma-2b": 2.51, "gemma-7b": 8.54,
    "phi-2": 2.78, "phi-1.5": 1.42, "phi-3-mini-128k": 3.82, "phi-3-medium-128k": 13.96, "phi-4-reasoning": 14.66, "phi-3.5-moe": 41.9,
    "gpt-oss-120b": 116.8, "deepseek-v2": 235.7, "deepseek-v3.1": 671.0, "glm-4.5-air": 107.0, "gpt2": 0.124, "gpt2-medium": 0.355,
    "gpt2-large": 0.774, "gpt2-xl": 1.56, "c4ai-command-r7b": 8.03, "c4ai-command-r-08": 32.3, "qwen1.5-moe-a2.7b": 14.3,
    "zephyr-7b": 7.24, "internlm3-8b": 8.8, "granite-3.0-2b": 2.63, "granite-3.1-2b": 2.53, "starcoder2-15b": 15.96, "llava-1.5-7b": 7.06,
    "minicpm-2b": 2.72, "qwen2-vl-2b": 2.21, "qwen2-vl-7b": 8.29, "qwen2.5-vl-72b": 73.4, "qwen2.5-vl-32b": 33.5, "yi-9b": 8.83,
    "pixtral-12b": 12.7, "aya-expanse-32b": 32.3, "falcon3-1b": 1.67, "pythia-160m": 0.162, "pythia-410m": 0.405, "pythia-2.8b": 2.78,
    "nemotron-nano-8b": 8.03, "glm-z1-9b": 9.4, "glm-4-9b": 9.4, "baichuan2-7b": 7.51, "gte-qwen2-1.5b": 1.78, "gte-qwen2-7b": 7.61,
    "qwen2.5-7b-1m": 7.62, "qwen2.5-math-7b": 7.62, "chatglm3-6b": 6.24, "opt-30b": 29.97, "opt-66b": 65.7, "internlm2-20b": 19.86,
    "stablelm-3b": 2.8, "internlm2-7b": 7.74, "smollm-1.7b": 1.71, "starcoder2-7b": 7.17,
    "falcon-7b": 6.92, "internlm2-1.8b": 1.89, "falcon3-3b": 3.23, "falcon-40b": 41.8,
    "qwen1.5-7b": 7.72, "mathstral-7b": 7.25, "qwen3-vl-32b": 33.4, "qwen3-vl-30b-a3b": 31.1, "minitron-8b": 8.41,
    "phi-4-multimodal": 5.57, "smolvlm": 2.25, "internvl3-8b": 7.94, "minicpm-v-2-6": 8.1, "moonlight-16b-a3b": 15.96, "kimi-vl-a3b": 16.4,
    "ernie-4.5-21b-a3b": 21.8, "ernie-4.5-0.3b": 0.36, "hunyuan-7b": 7.5, "hunyuan-a13b": 80.4, "mimo-7b": 7.62,
    "c4ai-command-a-03": 111.06, "minimax-m2": 228.7,
    "granite-4.0-micro": 3.4, "dbrx": 131.6, "starcoder": 15.52, "gpt-j-6b": 6.05, "bloom-7b1": 7.07,
    "mpt-7b": 6.65, "llama-4-scout-17b-16e": 108.6, "granite-4.0-h-tiny": 6.94, "granite-4.0-h-small": 32.2, "lfm2-8b-a1b": 8.34,
    "llava-v1.6-mistral-7b": 7.57, "yi-coder-9b": 8.83,
    "codellama-70b": 68.98, "pythia-1b": 1.01, "aya-expanse-8b": 8.03, "aya-23-8b": 8.03, "qwen1.5-0.5b": 0.464, "olmo-2-13b": 13.7,
}  # fmt: skip


def billions(row: dict[str, object]) -> float:
    names = row["names"]
    assert isinstance(names, list)
    if names[0] in PUBLISHED:
        return PUBLISHED[names[0]]
    size = re.search(r"(\d+(?:\.\d+)?)(b|m)(?![a-z])", names[0])
    assert size is not None, names[0]
    return float(size[1]) / (1 if size[2] == "b" else 1000)


@pytest.mark.parametrize("row", [row for row in ROWS if "config" in row], ids=lambda row: row["names"][0])
def test_a_family_has_the_size_that_is_published(row: dict[str, object]) -> None:
    names = row["names"]
    assert isinstance(names, list)
    counted = count_params(text_geometry(names[0], None)) / 1e9
    assert counted == pytest.approx(billions(row), rel=0.04)


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("NousResearch/Hermes-3-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"), ("intfloat/e5-mistral-7b-instruct", "mistral-7b"),
     ("cyankiwi/Qwen3.5-27B-AWQ-4bit", "qwen3.5-27b"), ("google/gemma-3-12b-it-qat-q4_0-gguf", "gemma-3-12b"),
     ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"), ("microsoft/Phi-4-mini-instruct", "phi-4-mini-instruct"),
     ("NousResearch/Hermes-4-14B", "qwen3-14b"), ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral-small-3.2-24b")],
)  # fmt: skip
def test_tuned_models_are_known_by_the_name_inside(name: str, same_as: str) -> None:
    assert text_geometry(name, None) == text_geometry(same_as, None)


@pytest.mark.parametrize("name", ["nobody/phi-4-70b", "x/gemma-3n-E2B-it", "acme/mistral-nemo-5b", "llama", "7b"])
def test_another_size_is_another_model(name: str) -> None:
    with pytest.raises(CaseError, match="is not known"):
        text_geometry(name, None)


def test_glm_4_32b_has_two_kv_heads() -> None:
    geometry = text_geometry("THUDM/GLM-4-32B-0414", None)
    assert geometry.num_key_value_heads == 2
    assert count_params(geometry) / 1e9 == pytest.approx(32.57, abs=0.005), "as llama.cpp prints it; with eight heads it is 33.1"
