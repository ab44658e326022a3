"""LoRA slots: worked numbers, the bill's own line, and the same figures in cases."""

from __future__ import annotations

from typing import Any

import pytest

from services.sizing.cards import parse_cards
from services.sizing.case_geometry import text_geometry
from services.sizing.cases import evaluate
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import WorkloadError, fit
from services.sizing.memory_lora import llamacpp_lora_bytes, vllm_lora_bytes
from services.sizing.types import Engine, FitReport, Host, MemoryBill, TextWorkload

HOST = Host(64 * 2**30, 60 * 2**30, None, 8)
LLAMA = "llama-3.1-8b-instruct"


def report(slots: int, rank: int = 16, engine: Engine = Engine.VLLM) -> FitReport:
    catalogue = load_catalogue()
    workload = TextWorkload(4096, 2, lora_slots=slots, lora_rank=rank)
    return fit(parse_cards("RTX 3060 12GB")[0], catalogue.get(LLAMA), HOST, workload=workload, engine=engine)


def bill(slots: int, rank: int = 16, engine: Engine = Engine.VLLM) -> MemoryBill:
    found = report(slots, rank, engine).bill
    assert found is not None
    return found


def test_worked_numbers() -> None:
    assert vllm_lora_bytes(text_geometry("Qwen/Qwen3-4B", None), 1, 64) == 322_584_576
    llama = text_geometry(LLAMA, None)
    assert llamacpp_lora_bytes(llama, 1, 16) == 83_886_080
    assert vllm_lora_bytes(llama, 4, 16) == 4 * vllm_lora_bytes(llama, 1, 16) == vllm_lora_bytes(llama, 1, 64)
    assert vllm_lora_bytes(llama, 0, 64) == llamacpp_lora_bytes(llama, 0, 64) == 0


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.LLAMACPP])
def test_slots_are_a_line_of_the_bill(engine: Engine) -> None:
    without, with_slots = bill(0, engine=engine), bill(4, engine=engine)
    assert without.lora_bytes == 0 < with_slots.lora_bytes
    assert with_slots.weights_bytes == without.weights_bytes, "the line is its own"
    assert with_slots.total_bytes - without.total_bytes == pytest.approx(1.01 * with_slots.lora_bytes, rel=0.001), "and its share of margin"
    assert "LoRA slots" in report(4, engine=engine).reason
    assert "LoRA" not in report(0, engine=engine).reason


def test_too_many_slots_do_not_fit_and_nonsense_is_a_sentence() -> None:
    assert not report(64, 256).fits
    with pytest.raises(WorkloadError, match="lora_rank is 0"):
        report(1, 0)
    with pytest.raises(WorkloadError, match="lora_slots"):
        report(100_000)


@pytest.mark.parametrize(
    "asked", [{"lora": True}, {"lora_slots": 1}, {"max_loras": 1, "max_lora_rank": 64}, {"lora": "yes", "lora_rank": "64"}]
)
def test_cases_count_them(asked: dict[str, Any]) -> None:
    run = {"engine": "vllm", "engine_version": "0.8.5 V0", "model": "unsloth/Llama-3.2-3B-Instruct", "quant": "fp16", "gpu_vram_gib": 14.74}
    plain, adapted = evaluate(run), evaluate(run | asked)
    assert plain["weights_gib"] == pytest.approx(6.016, abs=0.002)
    assert adapted["weights_gib"] == pytest.approx(6.2473, abs=0.01), "as logged"
    assert adapted["lora_gib"] == pytest.approx(adapted["weights_gib"] - plain["weights_gib"], abs=1e-3)
    assert evaluate(run | asked | {"engine": "llama.cpp", "quant": "q4_k_m"})["lora_gib"] > 0
