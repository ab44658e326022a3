"""No room for what was planned: one retry with less, on the same card, said aloud."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit
from services.sizing.types import Engine, Host, ImageWorkload, Placement, TextWorkload, Workload
from services.worker import admission
from services.worker.failure import is_out_of_memory, why_it_ended
from services.worker.smaller import halves, smaller
from tests.worker.bench import Bench
from tests.worker.sample import CPU, GIB, RTX3060TI, placement

CHAT = load_catalogue().get("smollm2-135m-instruct")


def placed(workload: Workload) -> Placement:
    variant = next(v for v in CHAT.variants if v.format == "gguf")
    host = Host(8 * GIB, 7 * GIB, None, 2, ("avx2", "bmi2", "fma", "f16c"), "x86_64")
    report = fit(CPU, CHAT, host, variant_id=variant.id, workload=workload, engine=Engine.LLAMACPP)
    assert report.choice
    where = placement(CPU, report.choice.engine, workload=workload, bill=report.bill, model_id=CHAT.id, choice=report.choice)
    return replace(where, variant_id=variant.id, report=report)


def test_the_worked_ladder() -> None:
    found = [(w.sequences, w.context_tokens) for w in halves(TextWorkload(4096, 4)) if isinstance(w, TextWorkload)]
    assert found == [(2, 4096), (1, 4096), (1, 2048), (1, 1024), (1, 512)]
    sizes = [(w.width_px, w.height_px, w.batch) for w in halves(ImageWorkload(1024, 768, 3), 64) if isinstance(w, ImageWorkload)]
    assert sizes == [(1024, 768, 1), (512, 384, 1)]


def test_the_first_that_fits_is_taken_with_its_bill() -> None:
    planned = placed(TextWorkload(2048, 8))
    assert planned.report.bill
    ample = smaller(planned, CHAT, CPU, 4 * GIB)
    assert ample is not None
    assert ample.workload == TextWorkload(2048, 4)
    tight = smaller(planned, CHAT, CPU, planned.report.bill.total_bytes * 55 // 100)
    assert tight is not None
    assert tight.report.bill
    assert tight.report.bill.total_bytes <= planned.report.bill.total_bytes * 55 // 100
    assert tight.report.need_bytes == tight.report.bill.total_bytes
    assert tight.choice == planned.choice
    assert smaller(planned, CHAT, CPU, 1) is None
    assert smaller(planned, None, CPU, 4 * GIB) is None
    assert smaller(planned, CHAT, CPU, None) is not None


def test_which_endings_are_for_want_of_memory() -> None:
    assert is_out_of_memory(why_it_ended(1, ["torch.cuda.OutOfMemoryError: CUDA out of memory"]))
    assert not is_out_of_memory(why_it_ended(137, []))
    assert not is_out_of_memory(why_it_ended(1, ["error: bad file"]))


async def test_an_engine_out_of_memory_serves_less(bench: Bench) -> None:
    driver = bench.start("oom", where=placed(TextWorkload(2048, 2)), model=CHAT)
    status = await bench.until("ready")
    assert status.restarts == 1
    assert status.workload is not None
    assert (status.workload["context_tokens"], status.workload["sequences"]) == (2048, 1)
    (note,) = status.notes
    assert "started once more with 2048 tokens of context" in note
    assert "instead of 2 sequences of 2048 tokens of context, because: the engine ended with code 1: out of memory" in note
    assert any("started once more" in line for line in bench.states)
    assert status.measured is not None
    assert status.measured["workload"]["sequences"] == 1
    driver.restart()
    await bench.until(lambda now: now.state == "loading" and not now.notes)  # as planned again, when it is asked for


async def test_only_once(bench: Bench) -> None:
    bench.start("oom", where=placed(TextWorkload(2048, 4)), model=CHAT)
    status = await bench.until("failed")
    assert status.restarts == 1, "one retry"
    assert "out of memory" in (status.reason or "")
    assert len(status.notes) == 1


async def test_refused_for_want_of_free_memory_serves_less(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = placed(TextWorkload(2048, 8))
    assert planned.report.bill
    free = planned.report.bill.total_bytes * 3 // 4
    monkeypatch.setattr(admission, "measure", lambda *_: admission.Free(free, None, "a game runs"))
    bench.start(where=planned, model=CHAT)
    status = await bench.until("ready")
    assert status.restarts == 0
    assert "because: not started: smollm2-135m-instruct" in status.notes[0]
    assert status.workload is not None
    assert status.workload["sequences"] < 8


def test_never_on_another_device() -> None:
    planned = placed(TextWorkload(2048, 2))
    made = smaller(planned, CHAT, RTX3060TI, 4 * GIB)
    assert made is not None
    assert (made.card_id, made.choice, made.variant_id) == (planned.card_id, planned.choice, planned.variant_id)
