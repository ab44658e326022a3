"""From what was chosen to what is written down: the fit reports of a card, and placements grown into what their card has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.sizing.fit import fit
from services.sizing.judge import MAX_BATCH, largest_workload
from services.sizing.plan_options import Option
from services.sizing.types import Card, FitReport, Host, ImageWorkload, ModelSpec, Placement, TextWorkload, Verdict, Workload

# Text workloads in the order in which a placement that has its card to itself tries them: (context, sequences).
_GPU_LADDER = ((16384, 8), (8192, 8), (8192, 4), (4096, 8), (4096, 4), (4096, 2), (4096, 1), (2048, 1))
CPU_LADDER = ((2048, 8), (2048, 4), (2048, 2), (2048, 1), (1024, 1))

Seat = tuple[ModelSpec, FitReport]


def seat(card: Card, have_bytes: int, host: Host, options: Sequence[Option]) -> tuple[Seat, ...]:
    """The report of each option beside the others on one card. Their bills add up to no more than `have_bytes`."""
    seats: list[Seat] = []
    for index, option in enumerate(options):
        others = sum(report.need_bytes or 0 for _, report in seats) + sum(later.need_bytes for later in options[index + 1 :])
        report = fit(
            card, option.model, host, variant_id=option.variant.id, workload=option.workload, engine=option.choice.engine,
            have_bytes=have_bytes - others,
        )  # fmt: skip
        if report.choice is not None and replace(report.choice, reasons=()) == replace(option.choice, reasons=()):
            report = replace(report, choice=option.choice)  # with the reasons why no better engine runs it here
        seats.append((option.model, squeezed(report)))
    return tuple(seats)


def squeezed(report: FitReport) -> FitReport:
    """A tight placement gets what there is: its reserve shrinks to what the card has left, so that bills never exceed a card."""
    if report.verdict is not Verdict.TIGHT or report.bill is None or report.have_bytes is None:
        return report
    short = report.bill.total_bytes - report.have_bytes
    bill = replace(report.bill, reserve_bytes=report.bill.reserve_bytes - short)
    return replace(report, bill=bill, need_bytes=bill.total_bytes, headroom_bytes=0)


def grown(card: Card, have_bytes: int, host: Host, seats: tuple[Seat, ...]) -> tuple[Seat, ...]:
    """The same models, variants and engines, each with the largest useful workload that what is left of the card allows, first come."""
    found = list(seats)
    for index, (model, report) in enumerate(found):
        others = sum(other.need_bytes or 0 for place, (_, other) in enumerate(found) if place != index)
        found[index] = (model, _larger_report(card, have_bytes - others, host, model, report))
    return tuple(found)


def _larger_report(card: Card, have_bytes: int, host: Host, model: ModelSpec, report: FitReport) -> FitReport:
    if report.verdict is not Verdict.FITS or report.choice is None:
        return report
    for workload in _larger(card, have_bytes, host, model, report):
        bigger = fit(
            card, model, host, variant_id=report.variant_id, workload=workload, engine=report.choice.engine, have_bytes=have_bytes
        )
        same = bigger.choice is not None and replace(bigger.choice, reasons=()) == replace(report.choice, reasons=())
        if bigger.verdict is Verdict.FITS and same:
            return replace(bigger, choice=report.choice)
    return report


def _larger(card: Card, have_bytes: int, host: Host, model: ModelSpec, report: FitReport) -> list[Workload]:
    """Workloads to try, largest first. Pictures grow to what the placement's own way reaches."""
    if model.text is not None:
        limit = model.text.max_position_embeddings
        ladder = CPU_LADDER if card.vendor == "cpu" else _GPU_LADDER
        return list(dict.fromkeys(TextWorkload(min(context, limit), sequences) for context, sequences in ladder))
    assert report.choice is not None
    assert report.workload is not None
    variant = next(variant for variant in model.variants if variant.id == report.variant_id)
    largest = largest_workload(model, variant, report.choice, report.workload, host, card, have_bytes)
    return [replace(largest, batch=batch) for batch in range(MAX_BATCH, 0, -1)] if isinstance(largest, ImageWorkload) else []


def on_card(card: Card, seats: tuple[Seat, ...]) -> tuple[Seat, ...]:
    """The same seats on an equal card."""
    return tuple(
        (model, replace(report, card_id=card.id, card_name=card.name, hints=tuple(replace(h, card_id=card.id) for h in report.hints)))
        for model, report in seats
    )


def placements_of(cards: Sequence[Card], seats: dict[str, tuple[Seat, ...]]) -> tuple[Placement, ...]:
    """Every seat with an id of its own: the model's id and a number, counted over the cards in their order."""
    counts: dict[str, int] = {}
    found = []
    for card in cards:
        for model, report in seats.get(card.id, ()):
            assert report.choice is not None
            assert report.workload is not None
            assert report.variant_id is not None
            counts[model.id] = counts.get(model.id, 0) + 1
            name = f"{model.id}-{counts[model.id]}"
            found.append(Placement(name, card.id, model.id, report.variant_id, report.choice, report.workload, report))
    return tuple(found)
