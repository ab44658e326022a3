"""Cases, cap arithmetic and the table, without a GPU."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest

from services.sizing.catalogue import load_catalogue
from services.sizing.types import Card, Host, ImageWorkload, TextWorkload, Verdict
from services.sizing.units import GIB
from tests.gpu.__main__ import DOC, planned, run_all
from tests.gpu.cap import BLOCK_BYTES, CapError, ballast_bytes, hold
from tests.gpu.cases import ROWS, Case, cases_of, emulated
from tests.gpu.runner import OUT_OF_MEMORY, RAN, Outcome
from tests.gpu.table import EMPTY, Result, document

H100 = Card("GPU-h100", "NVIDIA H100 80GB HBM3", "nvidia", 79 * GIB, compute_capability="9.0", driver_version="580.95.05")
HOST = Host(128 * GIB, 120 * GIB, "x", 16, ("avx2", "fma", "f16c", "bmi2"), "x86_64")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.card_gib}-{row.model_id}")
def test_every_row_has_its_two_cases(row) -> None:
    limit, beyond = cases_of(row, H100, HOST, load_catalogue())
    have = row.card_gib * GIB
    bill = limit.judged.bill
    assert limit.judged.verdict is Verdict.FITS
    assert have - 0.4 * GIB < bill.total_bytes <= have, "at the limit the card is full"
    assert beyond.judged.verdict is Verdict.DOES_NOT_FIT
    assert have < beyond.predicted_bytes - beyond.judged.bill.reserve_bytes < have + 0.5 * GIB, "just beyond, not far"
    where = limit.placement(H100)
    assert where.report.bill == bill
    assert where.workload == limit.judged.workload
    assert limit.judged.choice.environment in ("vllm-cuda", "diffusion-cuda", "llamacpp-cuda13")


def test_cards_and_models_are_those_of_the_brief() -> None:
    assert sorted(row.card_gib for row in ROWS) == [4, 6, 8, 10, 12, 24]
    assert {row.engine.value for row in ROWS} == {"vllm", "llama.cpp", "diffusers"}
    sd, _ = cases_of(ROWS[0], H100, HOST, load_catalogue())
    assert isinstance(sd.judged.workload, ImageWorkload)
    assert sd.judged.workload.width_px >= 512, "Stable Diffusion 1.5 at its own size must run on 4 GiB"
    llama, _ = cases_of(ROWS[-1], H100, HOST, load_catalogue())
    assert isinstance(llama.judged.workload, TextWorkload)


def test_a_gpu_that_is_too_small_is_said() -> None:
    t4 = replace(H100, name="Tesla T4", total_bytes=15 * GIB, compute_capability="7.5")
    with pytest.raises(ValueError, match=r"Tesla T4 has 15.0 GiB; 24 GiB can't be emulated"):
        emulated(t4, 24)
    results = list(planned(t4, HOST))
    assert [result.why != "" for result in results if result.row.card_gib == 24] == [True]
    assert sum(result.case is not None for result in results) == 10


def test_ballast() -> None:
    assert ballast_bytes(int(79.2 * GIB), 8 * GIB) == 36_454 * BLOCK_BYTES
    assert ballast_bytes(8 * GIB, 8 * GIB) == 0
    with pytest.raises(CapError, match=r"7.00 GiB of the card are free, fewer than the 8.00"):
        ballast_bytes(7 * GIB, 8 * GIB)


class Cuda:
    """libcuda as far as the ballast asks it: a context takes memory, so does an allocation, and somebody else may."""

    def __init__(self, free: int, other: int = 0, refuses: str = "") -> None:
        self.free, self.other, self.refuses, self.made = free, other, refuses, 0

    def __getattr__(self, name: str):
        def call(*arguments) -> int:
            if name == self.refuses:
                return 2
            if name == "cuDevicePrimaryCtxRetain":
                self.free -= 400 * 2**20
            if name == "cuMemAlloc_v2":
                self.made += arguments[1].value
                self.free -= arguments[1].value + self.other + 2**20
            if name == "cuMemGetInfo_v2":
                for place, value in zip(arguments, (self.free, 79 * GIB), strict=True):
                    ctypes.cast(place, ctypes.POINTER(ctypes.c_size_t))[0] = value
            return 0

        return call


def test_the_ballast_counts_its_own_context_and_sees_others() -> None:
    cuda = Cuda(78 * GIB)
    told = hold(8 * GIB, cuda)
    assert 8 * GIB - 2 * 2**20 <= told["free_bytes"] <= 8 * GIB, "page tables were counted after the first, rough part"
    assert told["held_bytes"] == cuda.made == 70 * GIB - (400 + 2) * 2**20
    with pytest.raises(CapError, match="another program uses this card"):
        hold(8 * GIB, Cuda(78 * GIB, other=100 * 2**20))
    with pytest.raises(CapError, match="cuMemAlloc_v2 failed with CUDA error 2"):
        hold(8 * GIB, Cuda(78 * GIB, refuses="cuMemAlloc_v2"))


def pair() -> tuple[Case, Case]:
    limit, beyond = cases_of(ROWS[1], H100, HOST, load_catalogue())
    return limit, beyond


def test_what_counts_as_predicted() -> None:
    limit, beyond = pair()

    def told(case: Case, happened: str) -> bool | None:
        return Result(case.row, case, Outcome(happened, GIB, 1.0)).as_predicted

    assert told(limit, RAN) is True
    assert told(limit, OUT_OF_MEMORY) is False
    assert told(beyond, OUT_OF_MEMORY) is True
    assert told(beyond, RAN) is False
    assert told(beyond, "the engine ended with code 2: a flag") is False, "another failure is no proof"
    assert Result(limit.row, limit, why="no time").as_predicted is None


def test_the_table() -> None:
    limit, beyond = pair()
    measured = int(limit.predicted_bytes / 0.95)
    results = [Result(limit.row, limit, Outcome(RAN, measured, 9.0)), Result(limit.row, beyond, Outcome("a | b\nc", 3 * GIB, 4.0)),
               Result(ROWS[0], why="too small")]  # fmt: skip
    lines = document(results, ["date: 2026-11-22"]).splitlines()
    assert "- date: 2026-11-22" in lines
    assert lines[-3].endswith("| -5.0 % | ran | yes |")
    assert lines[-2].endswith("| 3.00 | - | a / b c | **NO** |")
    assert lines[-1].endswith("| too small | not run |")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_time_that_runs_out_is_no_success() -> None:
    limit, beyond = pair()
    left = iter([10.0, 0.0])
    done = run_all([Result(limit.row, limit), Result(limit.row, beyond)], lambda case: Outcome(RAN, GIB, 1.0), lambda: next(left))
    assert [result.as_predicted for result in done] == [True, None]
    assert "no time was left" in done[1].why


def test_the_document_in_the_repository() -> None:
    """Either a run's, with its facts, or the empty one that says so: never figures without their circumstances."""
    text = Path(DOC).read_text(encoding="utf8")
    if EMPTY in text:
        assert text == document([], [])
    else:
        assert all(f"\n- {fact}: " in text for fact in ("date", "GPU", "versions", "command"))
