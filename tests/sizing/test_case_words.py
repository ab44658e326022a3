"""Cases in their authors' words: engines, sizes, counts and `arch` values as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from services.sizing.case_engines import accounting_of
from services.sizing.case_fields import pixels, share, tokens
from services.sizing.case_geometry import CaseError, image_pipeline
from services.sizing.cases import evaluate

ARCH = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "intermediate_size": 14336, "tie_word_embeddings": False, "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "accounting"),
    [("vLLM 0.6.3", "vllm"), ("SGLang", "vllm"), ("TGI", "vllm"), ("something new", "vllm"), ("llama-server", "llama.cpp"),
     ("llama.cpp (ik fork)", "llama.cpp"), ("LM Studio", "llama.cpp"), ("KoboldCpp", "llama.cpp"), ("ollama", "llama.cpp"),
     ("HF transformers", "transformers"), ("ExLlamaV2 (tabbyAPI)", "exllama"), ("exllamav3", "exllama"),
     ("autoawq", "autoawq"), ("A1111 notebook", "image"), ("ComfyUI", "image"), ("sd.cpp", "image"), ("easydiffusion", "image"),
     ("diffusers 0.31", "image"), ("stable-diffusion.cpp", "image"), ("InvokeAI", "image")],
)  # fmt: skip
def test_an_engine_by_any_of_its_names(engine: str, accounting: str) -> None:
    assert accounting_of(engine) == accounting


def test_an_engine_for_images_is_enough_to_ask_for_one() -> None:
    asked = {"model": "stabilityai/sdxl-turbo", "engine": "diffusers", "quant": "fp16", "gpu_vram_gib": 12}
    answer = evaluate(asked)
    assert "error" not in answer
    assert answer["kv_tokens"] is None
    assert answer["weights_gib"] == pytest.approx(6.46, abs=0.01)
    assert evaluate({**asked, "resolution": "1024x1024"}) == answer


def test_exllama_keeps_the_token_table_on_the_host() -> None:
    arch = {**ARCH, "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40, "vocab_size": 152064,
            "intermediate_size": 27648}  # fmt: skip
    asked = {"model": "made up", "engine": "exllamav3", "quant": "exl3 4.0bpw", "arch": arch, "gpu_vram_gib": 24, "max_model_len": 8192}
    answer = evaluate(asked)
    assert answer["weights_gib"] == pytest.approx(15.07, abs=0.02)
    assert answer["kv_available_gib"] == pytest.approx(2.0, abs=1e-3)
    assert evaluate({**asked, "kv_dtype": "q4_0"})["total_peak_gib"] < answer["total_peak_gib"] - 1
    wider = evaluate({**asked, "quant": "exl3 6.0bpw"})["weights_gib"]
    assert wider - answer["weights_gib"] == pytest.approx(31.2e9 * 0.25 / 2**30, abs=0.03), "two bits more on every matrix"


@pytest.mark.parametrize(
    ("written", "size"),
    [("512x768", (512, 768)), ("512", (512, 512)), (512, (512, 512)), ("1024*1024", (1024, 1024)), ([640, 480], (640, 480)),
     ("1024x1024px", (1024, 1024)), ("768 x 768 x 4", (768, 768)), (None, (1024, 1024)), ("n/a", None)],
)  # fmt: skip
def test_resolutions(written: Any, size: tuple[int, int] | None) -> None:
    assert pixels({"resolution": written}) == size


@pytest.mark.parametrize("written", ["large", "0x0", "512x0", {"w": 1}, [1, 2, 3], True, "999999x1", -5])
def test_what_is_no_resolution(written: Any) -> None:
    with pytest.raises(CaseError):
        pixels({"resolution": written})


def test_counts_and_shares() -> None:
    assert tokens({"n": "32K"}, "n", 2**24) == 32768
    assert tokens({"n": "8192"}, "n", 2**24) == 8192
    assert share({"s": "90%"}, "s") == share({"s": 90}, "s") == share({"s": 0.9}, "s") == 0.9
    assert share({}, "s") is None
    for wrong in ("0%", 101, -1, 1.5, "most"):
        with pytest.raises(CaseError):
            share({"s": wrong}, "s")


def test_arch_as_text_and_nested() -> None:
    asked = {"model": "made up", "engine": "vllm", "quant": "bf16", "gpu_vram_gib": 24, "max_model_len": 4096, "arch": ARCH}
    plain = evaluate(asked)
    assert "error" not in plain
    assert evaluate({**asked, "arch": {name: str(value) if type(value) is int else value for name, value in ARCH.items()}}) == plain
    assert evaluate({**asked, "arch": {"text_config": ARCH}}) == plain
    half = {**ARCH, "sliding_window": 1024, "layer_types": ["full_attention", "sliding_attention"] * 16}
    assert evaluate({**asked, "engine": "transformers", "arch": half, "prefill": 8192})["total_peak_gib"] < evaluate(
        {**asked, "engine": "transformers", "prefill": 8192}
    )["total_peak_gib"], "half of the layers keep 1024 tokens"


def test_a_pipeline_is_not_taken_for_the_next_version() -> None:
    with pytest.raises(CaseError):
        image_pipeline("black-forest-labs/FLUX.2-dev")
    assert "llm" in image_pipeline("black-forest-labs/FLUX.2-klein-4B").components
    assert image_pipeline("Lykon/dreamshaper-xl-1-0") == image_pipeline("sdxl")
    assert image_pipeline("Lykon/dreamshaper-8") == image_pipeline("sd-1.5")
    assert sum(image_pipeline("segmind/tiny-sd").components.values()) < 0.65 * sum(image_pipeline("sd-1.5").components.values())
