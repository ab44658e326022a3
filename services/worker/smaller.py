"""The largest smaller workload that fits: what is tried once when an engine has no room for what was planned. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from services.sizing.bill import make_bill
from services.sizing.calibration import with_measured_bytes
from services.sizing.fit import workload_words
from services.sizing.types import Card, ImageWorkload, ModelSpec, Placement, TextWorkload, Workload
from services.sizing.units import gib

LEAST_CONTEXT_TOKENS = 512
LEAST_SIDE_PX = 256


def smaller(placement: Placement, model: ModelSpec | None, card: Card, have_bytes: int | None) -> Placement | None:
    """The same model, variant and engine on the same card with less at once; None when nothing smaller fits, or when the catalogue can't
    size it.

    1. Text: half the sequences, down to one; then half the context. A shorter context refuses requests, fewer sequences only let them wait.
    2. Images: half the batch, down to one; then half the sides.
    3. The first whose bill is within `have_bytes` (where nobody can measure that, the first).
    Worked number: 4 sequences of 4096 tokens: 2 of 4096, 1 of 4096, 1 of 2048, 1 of 1024, 1 of 512.
    """
    variant = next((v for v in model.variants if v.id == placement.variant_id), None) if model else None
    if model is None or variant is None:
        return None
    for workload in halves(placement.workload, model.image.multiple_px if model.image else 1):  # 1, 2
        bill, _ = with_measured_bytes(make_bill(model, variant, placement.choice, workload), card, model, variant, placement.choice)
        if have_bytes is None or bill.total_bytes <= have_bytes:  # 3
            report = replace(placement.report, workload=workload, bill=bill, need_bytes=bill.total_bytes)
            return replace(placement, workload=workload, report=report)
    return None


def halves(workload: Workload, multiple_px: int = 1) -> Iterator[Workload]:
    """Every smaller workload of the ladder, largest first."""
    if isinstance(workload, TextWorkload):
        while workload.sequences > 1:
            workload = replace(workload, sequences=workload.sequences // 2)
            yield workload
        while workload.context_tokens // 2 >= LEAST_CONTEXT_TOKENS:
            workload = replace(workload, context_tokens=workload.context_tokens // 2)
            yield workload
        return
    while workload.batch > 1:
        workload = replace(workload, batch=workload.batch // 2)
        yield workload
    while (half := _half(workload, multiple_px)) is not None:
        workload = half
        yield workload


def _half(workload: ImageWorkload, multiple_px: int) -> ImageWorkload | None:
    width, height = (side // 2 // multiple_px * multiple_px for side in (workload.width_px, workload.height_px))
    return replace(workload, width_px=width, height_px=height) if min(width, height) >= LEAST_SIDE_PX else None


def in_words(planned: Placement, made: Placement, why: str) -> str:
    """What is said aloud."""
    need = gib(made.report.need_bytes) if made.report.need_bytes is not None else "unknown"
    return f"started once more with {workload_words(made.workload)} ({need}) instead of {workload_words(planned.workload)}, because: {why}"
