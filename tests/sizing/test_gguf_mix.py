"""Every mix of llama.cpp's quantizer, against the sizes of published files."""

from __future__ import annotations

import pytest

from services.sizing.case_geometry import text_geometry
from services.sizing.cases import evaluate
from services.sizing.memory_weights import gguf_parts

# Files of bartowski/Meta-Llama-3.1-8B-Instruct-GGUF, in GB. Each also holds 7.8 MB of tokenizer and metadata.
FILES = {
    "IQ2_M": 2.948, "IQ3_XXS": 3.275, "IQ3_XS": 3.519, "IQ3_M": 3.785, "Q2_K": 3.179, "Q3_K_M": 4.019, "Q3_K_L": 4.322,
    "Q4_K_M": 4.921, "Q6_K": 6.596, "Q8_0": 8.541,
}  # fmt: skip


@pytest.mark.parametrize("mix", FILES)
def test_a_mix_is_as_large_as_its_file(mix: str) -> None:
    total = gguf_parts(text_geometry("llama-3.1-8b", None), mix)[0]
    assert total / 1e9 + 0.0078 == pytest.approx(FILES[mix], abs=0.0015)


def test_fewer_bits_are_fewer_bytes() -> None:
    order = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_XS Q4_K_M Q5_K_M Q8_0"
    sizes = [gguf_parts(text_geometry("llama-3.1-8b", None), mix)[0] for mix in order.split()]
    assert sizes == sorted(sizes)


def test_a_gguf_file_is_llamacpps_in_any_front_end() -> None:
    asked = {"model": "llama-3.1-8b", "quant": "Q4_K_M", "gpu_vram_gib": 8, "max_model_len": 4096}
    assert evaluate({**asked, "engine": "text-generation-webui"}) == evaluate({**asked, "engine": "llama.cpp"})
