"""The fit answer: verdicts with their arithmetic, what is the largest that fits, and what would fit instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import WorkloadError, fit
from services.sizing.types import Card, Engine, FitReport, Host, ImageWorkload, TextWorkload, Verdict

GIB = 2**30
HOST = Host(32 * GIB, 30 * GIB, "Xeon", 8, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
CATALOGUE = load_catalogue()
LLAMA, QWEN_32B = CATALOGUE.get("llama-3.1-8b-instruct"), CATALOGUE.get("qwen2.5-32b-instruct")
SDXL, DIGITS, SMOL = CATALOGUE.get("sdxl"), CATALOGUE.get("digits-sd"), CATALOGUE.get("smollm2-135m-instruct")


def card(name: str) -> Card:
    return parse_cards(name)[0]


def check(report: FitReport) -> FitReport:
    """What must hold of every report with a bill."""
    assert report.bill is not None
    assert report.have_bytes is not None
    assert report.need_bytes == report.bill.total_bytes
    assert report.headroom_bytes == report.have_bytes - report.need_bytes
    assert report.margin_bytes == report.bill.reserve_bytes > 0
    assert min(report.bill.weights_bytes, report.bill.activation_bytes, report.bill.engine_bytes) > 0
    if report.verdict is Verdict.FITS:
        assert report.headroom_bytes >= 0
        assert report.hints == ()
    if report.verdict is Verdict.TIGHT:
        assert -report.bill.reserve_bytes <= report.headroom_bytes < 0
    assert report.reason.startswith(("Needs", "The host"))
    return report


def test_a_plain_fit() -> None:
    report = check(fit(card("RTX 3060 12GB"), LLAMA, HOST))
    assert report.verdict is Verdict.FITS
    assert report.choice is not None
    assert report.choice.engine is Engine.VLLM
    assert report.quant == "awq-int4-g128"
    assert isinstance(report.largest, TextWorkload)
    assert report.largest.context_tokens > 4096


def test_the_largest_fits_and_one_step_more_does_not() -> None:
    report = fit(card("RTX 3060 12GB"), LLAMA, HOST)
    assert isinstance(report.largest, TextWorkload)
    again = fit(card("RTX 3060 12GB"), LLAMA, HOST, variant_id=report.variant_id, workload=report.largest)
    assert again.verdict is Verdict.FITS
    more = replace(report.largest, context_tokens=report.largest.context_tokens + 256)
    assert fit(card("RTX 3060 12GB"), LLAMA, HOST, variant_id=report.variant_id, workload=more).largest is not None
    graphs_on = fit(card("RTX 3060 12GB"), LLAMA, HOST, variant_id=report.variant_id, workload=more)
    assert graphs_on.verdict is not Verdict.FITS or graphs_on.choice != report.choice


def test_what_does_not_fit_says_what_would() -> None:
    report = check(fit(card("RTX 3060 Ti"), QWEN_32B, HOST, catalogue=CATALOGUE))
    assert report.verdict is Verdict.DOES_NOT_FIT
    assert "short" in report.reason
    assert report.largest is None
    assert any(hint.model_id != QWEN_32B.id for hint in report.hints)
    for hint in report.hints:
        other = CATALOGUE.get(hint.model_id)
        answer = fit(card("RTX 3060 Ti"), other, HOST, variant_id=hint.variant_id, workload=hint.workload)
        assert answer.verdict is Verdict.FITS, hint


def test_hints_of_the_same_model_come_in_order_of_quality_lost() -> None:
    report = fit(card("RTX 3060 12GB"), LLAMA, HOST, variant_id="bf16", workload=TextWorkload(4096, 4), catalogue=CATALOGUE)
    assert report.verdict is Verdict.DOES_NOT_FIT
    own = [hint.variant_id for hint in report.hints if hint.model_id == LLAMA.id]
    assert own.index("q6_k-gguf") < own.index("q4_k_m-gguf")


def test_a_shorter_context_is_the_first_hint() -> None:
    report = fit(card("RTX 3060 Ti"), LLAMA, HOST, variant_id="q4_k_m-gguf", workload=TextWorkload(65536, 1), catalogue=CATALOGUE)
    assert report.verdict is Verdict.DOES_NOT_FIT
    assert report.hints[0].variant_id == "q4_k_m-gguf"
    assert report.hints[0].workload == report.largest


def test_tight_is_inside_the_margin() -> None:
    plain = fit(card("RTX 3060 12GB"), LLAMA, HOST, variant_id="q4_k_m-gguf", workload=TextWorkload(4096, 4))
    assert plain.bill is not None
    exact = plain.bill.total_bytes
    for have, verdict in (
        (exact, Verdict.FITS), (exact - 1, Verdict.TIGHT), (exact - plain.bill.reserve_bytes, Verdict.TIGHT),
        (exact - plain.bill.reserve_bytes - 1, Verdict.DOES_NOT_FIT),
    ):  # fmt: skip
        usual = TextWorkload(4096, 4)
        asked = fit(card("RTX 3060 12GB"), LLAMA, HOST, variant_id="q4_k_m-gguf", workload=usual, have_bytes=have, catalogue=CATALOGUE)
        assert check(asked).verdict is verdict
        assert asked.fits is (verdict is not Verdict.DOES_NOT_FIT)


def test_free_memory_now_counts() -> None:
    busy = replace(card("RTX 3060 12GB"), free_bytes=1 * GIB)
    assert fit(busy, LLAMA, HOST).verdict is Verdict.DOES_NOT_FIT
    assert fit(busy, LLAMA, HOST, have_bytes=11 * GIB).fits, "the caller knows better"


def test_no_engine_at_all() -> None:
    report = fit(card("RX 580 8GB"), SDXL, HOST, catalogue=CATALOGUE)
    assert report.verdict is Verdict.DOES_NOT_FIT
    assert report.bill is None
    assert "AMD" in report.reason


def test_unknown_variant_names_the_known_ones() -> None:
    report = fit(card("RTX 3060 Ti"), LLAMA, HOST, variant_id="q9")
    assert "q4_k_m-gguf" in report.reason


def test_images() -> None:
    report = check(fit(card("RTX 3090"), SDXL, HOST))
    assert report.verdict is Verdict.FITS
    assert report.quant == "fp16"
    assert isinstance(report.largest, ImageWorkload)
    assert 1024 < report.largest.width_px <= 2048
    assert report.largest.width_px % 8 == 0
    wide = fit(card("RTX 3060 Ti"), SDXL, HOST, workload=ImageWorkload(2048, 1024))
    assert isinstance(wide.largest, ImageWorkload)
    assert wide.largest.width_px == pytest.approx(2 * wide.largest.height_px, abs=16)


def test_weak_hosts_are_refused_too() -> None:
    tiny = Host(int(0.5 * GIB), None, None, 2)
    report = fit(card("RTX 3060 12GB"), LLAMA, tiny, engine=Engine.LLAMACPP)
    assert report.verdict is Verdict.DOES_NOT_FIT
    assert "host" in report.reason


def test_the_simulated_card_is_labelled() -> None:
    report = check(fit(simulated_cpu_card(4 * GIB), SMOL, HOST))
    assert report.simulated
    assert report.choice is not None
    assert report.choice.environment == "vllm-cpu"
    assert report.bill is not None
    assert report.bill.engine_bytes == int(1.5e9)
    assert report.host is not None
    assert report.host.ram_bytes == report.need_bytes


def test_llamacpp_on_a_cpu_says_why_not_vllm() -> None:
    flags = ("avx2", "fma", "f16c", "bmi2")
    report = fit(simulated_cpu_card(int(1.2 * GIB)), SMOL, Host(4 * GIB, 3 * GIB, "Old", 2, flags, "x86_64"))
    assert report.choice is not None
    assert report.choice.engine is Engine.LLAMACPP, "vLLM alone takes more than this card has"
    assert any("vLLM" in sentence and "short" in sentence for sentence in report.choice.reasons)


def test_an_engine_asked_for_is_refused_with_the_reason_that_matters() -> None:
    report = fit(card("P104-100 8GB"), LLAMA, HOST, engine=Engine.VLLM)
    assert report.verdict is Verdict.DOES_NOT_FIT
    assert "7.5" in report.reason
    assert "gguf" not in report.reason
    only_gguf = replace(LLAMA, variants=tuple(variant for variant in LLAMA.variants if variant.format == "gguf"))
    assert "gguf checkpoint" in fit(card("P104-100 8GB"), only_gguf, HOST, engine=Engine.VLLM).reason


@pytest.mark.parametrize(
    "workload",
    [
        TextWorkload(0, 1), TextWorkload(-5, 1), TextWorkload(2**30, 1), TextWorkload(4096, 0), TextWorkload(4096, 10**9),
        TextWorkload(200_000, 1), TextWorkload(4096, 1, batch_tokens=0), ImageWorkload(512, 512),
    ],
)  # fmt: skip
def test_nonsense_workloads(workload: TextWorkload | ImageWorkload) -> None:
    if isinstance(workload, TextWorkload) and workload.batch_tokens == 0:
        workload = replace(workload, batch_tokens=-1)
    with pytest.raises(WorkloadError):
        fit(card("RTX 3060 Ti"), LLAMA, HOST, workload=workload)


@pytest.mark.parametrize("workload", [ImageWorkload(0, 8), ImageWorkload(8, 2**20), ImageWorkload(8, 8, batch=0), TextWorkload(1, 1)])
def test_nonsense_image_workloads(workload: TextWorkload | ImageWorkload) -> None:
    with pytest.raises(WorkloadError):
        fit(simulated_cpu_card(GIB), DIGITS, HOST, workload=workload)
