"""Which model runs on which card: the decision that plan.yaml carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.sizing.catalogue import Catalogue
from services.sizing.fit import ACCEPTABLE_LOSS, default_workloads, fit, loss_of, worth
from services.sizing.judge import MAX_BATCH
from services.sizing.types import (
    Card,
    Engine,
    FitReport,
    Host,
    ImageWorkload,
    ModelSpec,
    Placement,
    Plan,
    Refusal,
    TextWorkload,
    Verdict,
    Workload,
)
from services.sizing.units import GIB, gib

# What a machine without GPUs serves: small, real, licence-free.
CPU_CHAT_MODEL = "smollm2-135m-instruct"
CPU_IMAGE_MODEL = "digits-sd"
# The system, the gateway and one worker for each engine.
HOST_OWN_BYTES = 1 * GIB
# Text workloads in the order in which a placement that has its card to itself tries them: (context, sequences).
_GPU_LADDER = ((16384, 8), (8192, 8), (8192, 4), (4096, 8), (4096, 4), (4096, 2), (4096, 1), (2048, 1))
_CPU_LADDER = ((2048, 8), (2048, 4), (2048, 2), (2048, 1), (1024, 1))
# Below this decode speed a model is no use to a person who reads along.
SLOWEST_CHAT_TOK_S = 5.0


@dataclass(slots=True)
class _Draft:
    """The plan while it is made: reports by card, host RAM promised so far."""

    host: Host
    cards: tuple[Card, ...]
    engine: Engine | None
    placed: dict[str, list[tuple[ModelSpec, FitReport]]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hopeless: dict[tuple[Card, str], int] = field(default_factory=dict)

    def left_bytes(self, card: Card, *, without: FitReport | None = None) -> int:
        """What the card can still give, as if `without` were not there."""
        have = card.total_bytes if card.free_bytes is None else min(card.free_bytes, card.total_bytes)
        return have - sum(report.need_bytes or 0 for _, report in self.placed.get(card.id, []) if report is not without)

    def host_left_bytes(self, *, without: FitReport | None = None) -> int | None:
        """Host RAM that no engine will hold for good; None when it is not known how much there is. What an engine takes only while it
        loads must fit beside the others, but is free again for the next: workers start one after another."""
        if self.host.ram_bytes is None:
            return None
        on_gpus = [report for card in self.cards if card.vendor != "cpu" for _, report in self.placed.get(card.id, [])]
        promised = sum((report.host.resident_bytes or 0) for report in on_gpus if report.host and report is not without)
        have = self.host.ram_bytes - HOST_OWN_BYTES
        if self.host.ram_available_bytes is not None:
            have = min(have, self.host.ram_available_bytes)
        return have - promised

    def engine_for(self, model: ModelSpec) -> Engine | None:
        """The user's wish, where it is about this kind of model: asking for llama.cpp says nothing about images."""
        about_images = self.engine is Engine.DIFFUSERS
        return self.engine if about_images == (model.kind == "image") else None


def make_plan(
    host: Host, cards: Sequence[Card], catalogue: Catalogue, *, want: Sequence[tuple[str, int]] | None = None, engine: Engine | None = None
) -> Plan:
    """Decide placements.

    1. No card: an empty plan that says so.
    2. A wish list: the models that need most are placed first, each copy on the emptiest card that it fits; what fits none is refused
       with one report per card.
    3. No wish, CPU card: the built-in chat and image models side by side, the chat model in what the image model leaves.
    4. No wish, GPUs: on every card the best chat model that fits; with several cards one of them (the smallest that can) makes images.
    5. Every placement then grows into what its card has left.

    Raises UnknownModelError for a wish that the catalogue does not have.
    """
    draft = _Draft(host, tuple(cards), engine)
    # 1
    if not draft.cards:
        draft.notes.append("No card: nothing can be placed.")
    # 2
    elif want is not None:
        _place_wishes(draft, catalogue, want)
    else:
        # 3
        for card in draft.cards:
            if card.vendor == "cpu":
                _place_pair(draft, card, catalogue)
        # 4
        _place_best(draft, [card for card in draft.cards if card.vendor != "cpu"], catalogue)
    # 5
    for card in draft.cards:
        draft.placed[card.id] = [(model, _grown(draft, card, model, report)) for model, report in draft.placed.get(card.id, [])]
    return Plan(1, host, draft.cards, _placements(draft), tuple(draft.refusals), tuple(dict.fromkeys(draft.notes)))


def _ask(
    draft: _Draft, card: Card, model: ModelSpec, workload: Workload | None = None, catalogue: Catalogue | None = None, sharers: int = 1
) -> FitReport:
    """The fit on what is left of the card and of host RAM (its fair share, where `sharers` cards still wait for an engine)."""
    host_left = draft.host_left_bytes()
    if host_left is not None:
        host_left //= sharers
    host = draft.host if host_left is None or card.vendor == "cpu" else replace(draft.host, ram_available_bytes=max(0, host_left))
    return fit(
        card, model, host, workload=workload, engine=draft.engine_for(model), have_bytes=draft.left_bytes(card), catalogue=catalogue
    )


def _place(draft: _Draft, card: Card, model: ModelSpec, report: FitReport) -> None:
    draft.placed.setdefault(card.id, []).append((model, _squeezed(report)))
    if report.verdict is Verdict.TIGHT:
        draft.notes.append(f"{model.id} on {card.name} ({card.id}) is tight: {report.reason}")


def _squeezed(report: FitReport) -> FitReport:
    """A tight placement gets what there is: its reserve shrinks to what the card has left, so that bills never exceed a card."""
    if report.verdict is not Verdict.TIGHT or report.bill is None or report.have_bytes is None:
        return report
    short = report.bill.total_bytes - report.have_bytes
    bill = replace(report.bill, reserve_bytes=report.bill.reserve_bytes - short)
    return replace(report, bill=bill, need_bytes=bill.total_bytes, headroom_bytes=0)


def _place_pair(draft: _Draft, card: Card, catalogue: Catalogue) -> None:
    known = {model.id: model for model in catalogue.models}
    for model_id in (CPU_IMAGE_MODEL, CPU_CHAT_MODEL):
        model = known.get(model_id)
        if model is None:
            draft.notes.append(f"The catalogue has no {model_id}, so the built-in plan goes without it.")
            continue
        smallest = TextWorkload(*_CPU_LADDER[-1]) if model.kind == "chat" else None
        report = _ask(draft, card, model, smallest, catalogue)
        if report.fits:
            _place(draft, card, model, report)
        else:
            draft.refusals.append(Refusal(model.id, (report,)))


def _place_best(draft: _Draft, cards: list[Card], catalogue: Catalogue) -> None:
    images = sorted((model for model in catalogue.models if model.kind == "image"), key=worth, reverse=True)
    chats = sorted((model for model in catalogue.models if model.kind == "chat"), key=worth, reverse=True)
    for_images = None
    if len(cards) > 1:
        for card in sorted(cards, key=lambda one: one.total_bytes):
            if _place_first(draft, card, images):
                for_images = card.id
                break
    waiting = [card for card in cards if card.id != for_images]
    for index, card in enumerate(waiting):
        # A fair share of host RAM first, so that all cards get to work; where that is too little for any engine, first come, first served.
        tries = ((chats, len(waiting) - index), (chats, 1), (images, 1))
        if not any(_place_first(draft, card, models, sharers) for models, sharers in tries):
            left = draft.host_left_bytes()
            host = f" (of host RAM {gib(left)} are left for its engine)" if left is not None and left < GIB else ""
            draft.notes.append(f"Nothing of the catalogue fits {card.name}, {card.id}{host}.")


def _place_first(draft: _Draft, card: Card, models: list[ModelSpec], sharers: int = 1) -> bool:
    """The first model that fits without being crippled by it. What an equal card could not hold is not asked again, unless
    there is more host RAM for it now."""
    kind = replace(card, id="", index=None, pci_address=None, render_node=None)
    share = (draft.host_left_bytes() or 0) // sharers
    for model in models:
        if draft.hopeless.get((kind, model.id), -1) >= share:
            continue
        report = _ask(draft, card, model, sharers=sharers)
        if report.verdict is Verdict.FITS and not _poor(model, report):
            _place(draft, card, model, report)
            return True
        draft.hopeless[kind, model.id] = share
    return False


def _poor(model: ModelSpec, report: FitReport) -> bool:
    """Not worth a card of its own: crippled by quantization, too slow to read along, less than the usual context, sequences or image size,
    or weights that cross the bus for every image."""
    lossy = any(variant.id == report.variant_id and loss_of(variant) > ACCEPTABLE_LOSS for variant in model.variants)
    slow = report.speed is not None and report.speed.decode_tok_s is not None and report.speed.decode_tok_s < SLOWEST_CHAT_TOK_S
    small = report.workload != default_workloads(model)[0]
    return lossy or slow or small or (report.choice is not None and report.choice.offload != "none")


def _place_wishes(draft: _Draft, catalogue: Catalogue, want: Sequence[tuple[str, int]]) -> None:
    wishes = [(catalogue.get(name), count) for name, count in want]
    for model, count in sorted(wishes, key=lambda wish: wish[0].params or 0, reverse=True):
        for _ in range(count):
            if not _place_copy(draft, model, catalogue):
                break


def _place_copy(draft: _Draft, model: ModelSpec, catalogue: Catalogue) -> bool:
    """Place one copy: cards with nothing on them first, the smallest that is enough; one copy of a model a card. False: refused."""
    reports = []
    best: tuple[tuple[bool, bool, int], Card, FitReport] | None = None
    for card in draft.cards:
        mine = draft.placed.get(card.id, [])
        if any(other.id == model.id for other, _ in mine):
            continue
        report = _ask(draft, card, model, None, catalogue)
        reports.append(report)
        rank = (report.verdict is Verdict.TIGHT, bool(mine), card.total_bytes)
        if report.fits and (best is None or rank < best[0]):
            best = (rank, card, report)
    if best is not None:
        _place(draft, best[1], model, best[2])
        return True
    if not reports:
        draft.notes.append(f"{model.id}: every card has a copy already, and a second on the same card would share its bandwidth.")
    else:
        draft.refusals.append(Refusal(model.id, tuple(reports)))
    return False


def _grown(draft: _Draft, card: Card, model: ModelSpec, report: FitReport) -> FitReport:
    """The same variant and engine with the largest useful workload that what is left of the card allows."""
    if report.verdict is not Verdict.FITS or report.choice is None:
        return report
    have = draft.left_bytes(card, without=report)
    for workload in _larger(card, model, report):
        bigger = fit(card, model, draft.host, variant_id=report.variant_id, workload=workload, engine=report.choice.engine, have_bytes=have)
        same = bigger.choice is not None and replace(bigger.choice, reasons=()) == replace(report.choice, reasons=())
        if bigger.verdict is Verdict.FITS and same and _host_allows(draft, card, report, bigger):
            bigger = replace(bigger, choice=report.choice)
            _swap(draft, card, report, bigger)
            return bigger
    return report


def _swap(draft: _Draft, card: Card, old: FitReport, new: FitReport) -> None:
    draft.placed[card.id] = [(model, new if report is old else report) for model, report in draft.placed[card.id]]


def _host_allows(draft: _Draft, card: Card, old: FitReport, new: FitReport) -> bool:
    left = draft.host_left_bytes(without=old)
    needed = new.host.ram_bytes if new.host else None
    return card.vendor == "cpu" or left is None or needed is None or needed <= left


def _larger(card: Card, model: ModelSpec, report: FitReport) -> list[Workload]:
    """Workloads to try, largest first."""
    if model.text is not None:
        limit = model.text.max_position_embeddings
        ladder = _CPU_LADDER if card.vendor == "cpu" else _GPU_LADDER
        return list(dict.fromkeys(TextWorkload(min(context, limit), sequences) for context, sequences in ladder))
    if isinstance(report.largest, ImageWorkload):
        return [replace(report.largest, batch=batch) for batch in range(MAX_BATCH, 0, -1)]
    return []


def _placements(draft: _Draft) -> tuple[Placement, ...]:
    counts: dict[str, int] = {}
    found = []
    for card in draft.cards:
        for model, report in draft.placed.get(card.id, []):
            assert report.choice is not None
            assert report.workload is not None
            assert report.variant_id is not None
            counts[model.id] = counts.get(model.id, 0) + 1
            name = f"{model.id}-{counts[model.id]}"
            found.append(Placement(name, card.id, model.id, report.variant_id, report.choice, report.workload, report))
    left = draft.host_left_bytes()
    if left is not None and any(card.vendor != "cpu" for card in draft.cards) and found:
        draft.notes.append(f"Host RAM: {gib(left)} of {gib(draft.host.ram_bytes or 0)} stay free beside the system and all engines.")
    return tuple(found)
