"""What was measured corrects what is predicted: a bill never asks for less than an engine was seen to take. Pure."""

from __future__ import annotations

from dataclasses import replace

from services.sizing.bill import make_bill
from services.sizing.types import Card, EngineChoice, Measured, MemoryBill, ModelSpec, Variant
from services.sizing.units import gib


def card_kind(card: Card) -> str:
    """What cards must have in common for a measurement on one to count for the other: the product, else the driver's name."""
    return card.spec or card.name


def with_measured_bytes(
    bill: MemoryBill, card: Card, model: ModelSpec, variant: Variant, choice: EngineChoice
) -> tuple[MemoryBill, str | None]:
    """The bill with what measured runs took beyond their estimate, and the sentence about it; as it is when none did.

    1. Only runs of the same model, variant and way to run it, on this kind of card, count.
    2. What such a run took beyond the estimate (without reserve) for its own workload is taken to be missing at every workload.
    3. The largest such figure is added. The reserve stays on top: two runs of one command differ by up to 0.15 GiB.
    Worked number: estimated 4.00 GiB + 0.30 reserve, measured 4.25 GiB: 0.25 GiB is added, the bill is 4.55 GiB.
    """
    most, seen = 0, None
    for run in card.measured:
        if _of_this(run, model, variant, choice):  # 1
            estimate = make_bill(model, variant, choice, run.workload)
            beyond = run.peak_bytes - (estimate.total_bytes - estimate.reserve_bytes)  # 2
            if beyond > most:
                most, seen = beyond, run
    if seen is None:
        return bill, None
    # 3
    where = f"{card_kind(card)}{f' (reported by {seen.origin})' if seen.origin else ''}"
    version = f" {seen.engine_version}" if seen.engine_version else ""
    sentence = (
        f"Measured on {where}: {choice.engine.value}{version} took {gib(seen.peak_bytes)} with {model.id} {variant.quant}, "
        f"{gib(most)} beyond the estimate for that run, so {gib(most)} is added."
    )
    return replace(bill, measured_extra_bytes=most), sentence


def way(choice: EngineChoice) -> EngineChoice:
    """What of a choice says how much memory is taken: all but the words and the container image."""
    return replace(choice, reasons=(), image=None)


def _of_this(run: Measured, model: ModelSpec, variant: Variant, choice: EngineChoice) -> bool:
    same = (run.model_id, run.variant_id, way(run.choice)) == (model.id, variant.id, way(choice))
    return same and run.workload.kind == ("image" if model.image is not None else "text")
