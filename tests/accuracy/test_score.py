"""The scorer itself: it hides what was measured, counts what it should, and finds a wrong answer wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.accuracy.score import answers, bits_of, blind, figure_errors, load_runs, naive_calculator, report, token_errors, verdicts

RUN = {
    "id": "r-1", "kind": "llm", "engine": "vllm", "engine_version": "0.7.2", "model": "meta-llama/Llama-3.1-8B-Instruct", "quant": "bf16",
    "gpu": "x", "gpu_vram_gib": 22.07, "gpu_memory_utilization": 0.9, "max_model_len": 131072, "notes": "no",
    "measured": {"weights_gib": 14.9888, "kv_available_gib": 4.6, "kv_tokens": 37696, "outcome": "no_kv"},
}  # fmt: skip
UNKNOWN = {"id": "r-2", "kind": "llm", "engine": "vllm", "model": "secret", "quant": "bf16", "measured": {"outcome": "fits"}}


def test_estimators_are_blind() -> None:
    seen = []

    def spy(run: dict[str, object]) -> dict[str, object]:
        seen.append(run)
        return {}

    answers([RUN], spy)
    assert set(seen[0]) == set(RUN) - {"measured", "notes"}
    assert "measured" not in blind(RUN)


def test_errors_and_verdicts() -> None:
    found = {"r-1": {"weights_gib": 2 * 14.9888, "verdict": "fits", "kv_bytes_per_token": 131072.0}}
    assert figure_errors([RUN], found, "weights_gib")[0].relative == pytest.approx(1.0)
    assert token_errors([RUN], found)[0].relative == pytest.approx(0.0, abs=0.001)
    judged = verdicts([RUN], found)
    assert (judged.right, judged.asked, judged.false_fits) == (0, 1, ("r-1",))


def test_what_was_allocated_at_a_crash_is_no_peak() -> None:
    crashed = {**RUN, "measured": {"total_peak_gib": 20.0, "outcome": "oom"}}
    assert figure_errors([crashed], {"r-1": {"total_peak_gib": 10.0}}, "total_peak_gib") == []


def test_naive_estimators() -> None:
    assert bits_of("awq-g128") == bits_of("q4_k_m") == bits_of("bnb-nf4-dq") == 4
    assert (bits_of("fp8"), bits_of("bf16"), bits_of("fp32"), bits_of("q2_k")) == (8, 16, 32, 2)
    assert naive_calculator(RUN)["total_peak_gib"] == pytest.approx(14.957 * 1.2, abs=0.01)


def test_report(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(json.dumps(run) for run in (RUN, UNKNOWN)), encoding="utf8")
    told = report(load_runs(path))
    assert "| weights | vllm | 0.0" in told
    assert "| start or refuse | all | 1 of 1 right, 0 false fits |" in told
    assert "r-2 (secret)" in told
