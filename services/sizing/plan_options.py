"""What the planner chooses from: kinds of cards, and every way in which a kind can run a model.

Sizing is asked once for each kind of card, never for each card: cards that can be exchanged for one another are one `Group`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.sizing.fit import default_workloads, ways_of
from services.sizing.judge import Judged, judge
from services.sizing.quality import acceptable
from services.sizing.speed import predict
from services.sizing.types import Card, Engine, EngineChoice, Host, ModelSpec, Speed, Variant, Verdict, Workload
from services.sizing.units import GIB, MIB

# The system, the gateway and one worker for each engine.
HOST_OWN_BYTES = 1 * GIB
# Equal cards differ by a few MiB in what is free now; those in the same quarter GiB are one kind, with the least of them.
_FREE_STEP_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True)
class Group:
    """Cards that can be exchanged for one another. `have_bytes` is what each of them can give."""

    cards: tuple[Card, ...]
    have_bytes: int

    @property
    def card(self) -> Card:
        """The one that is asked about for all."""
        return self.cards[0]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a model on a kind of card. `level` is how far below the usual workload it stays, `order` its place in `fit`'s order
    of ways. `resident_bytes` of host RAM stay taken, `loading_bytes` more while it loads (0 on a CPU card, whose bill is host RAM)."""

    model: ModelSpec
    variant: Variant
    choice: EngineChoice
    workload: Workload
    verdict: Verdict
    need_bytes: int
    resident_bytes: int
    loading_bytes: int
    level: int
    order: int
    speed: Speed

    @property
    def lossy(self) -> bool:
        return not acceptable(self.variant)

    @property
    def words(self) -> str:
        """`llama-3.1-8b-instruct Q4_K_M by llama.cpp`."""
        return f"{self.model.id} {self.variant.quant} by {self.choice.engine.value}"


def group_cards(cards: tuple[Card, ...]) -> tuple[Group, ...]:
    """The kinds of cards, in the order in which they first appear."""
    found: dict[tuple[Card, int | None], list[Card]] = {}
    for card in cards:
        free = None if card.free_bytes is None else card.free_bytes // _FREE_STEP_BYTES
        alike = replace(card, id="", index=None, pci_address=None, render_node=None, free_bytes=None, power_limit_watts=None)
        found.setdefault((alike, free), []).append(card)
    return tuple(Group(tuple(mine), min(have_bytes(card) for card in mine)) for mine in found.values())


def have_bytes(card: Card) -> int:
    """What a card can give to placements: what is free now, else all of it."""
    return card.total_bytes if card.free_bytes is None else min(card.free_bytes, card.total_bytes)


def engine_for(engine: Engine | None, model: ModelSpec) -> Engine | None:
    """The user's wish, where it is about this kind of model: asking for llama.cpp says nothing about images."""
    return engine if (engine is Engine.DIFFUSERS) == (model.kind == "image") else None


def host_for_engines(host: Host, promised_bytes: int = 0) -> Host:
    """The host with what engines may still take of its RAM as what is available: the rest beside the system, the gateway and `promised`,
    and no more than is free now."""
    if host.ram_bytes is None:
        return host
    free = host.ram_bytes - HOST_OWN_BYTES
    free = free if host.ram_available_bytes is None else min(free, host.ram_available_bytes)
    return replace(host, ram_available_bytes=max(0, free - promised_bytes))


def options_of(group: Group, model: ModelSpec, host: Host, engine: Engine | None, *, every_level: bool) -> list[Option]:
    """Every way that fits a whole card of the kind, in `fit`'s order.

    1. For each variant the first choice that fits at the usual workload (later ones of the same variant are slower).
    2. With `every_level`, also the smaller workloads, which leave room for a second model or fit where the usual one does not.
    3. Only then what is tight: covered without the reserve.
    """
    ways, refusals = ways_of(group.card, model, host, engine_for(engine, model))
    seen: set[tuple[str, int]] = set()
    found: list[Option] = []
    for level, workload in enumerate(default_workloads(model) if every_level else default_workloads(model)[:1]):
        for order, (variant, choice) in enumerate(ways):
            if (variant.id, level) in seen:
                continue
            judged = judge(model, variant, choice, workload, host_for_engines(host), group.card, group.have_bytes)
            if judged.verdict is Verdict.DOES_NOT_FIT or (judged.verdict is Verdict.TIGHT and not every_level):
                continue
            if judged.verdict is Verdict.FITS:
                seen.add((variant.id, level))
            found.append(_option(group, model, judged, level, order, refusals if engine is None else []))
    return found


def _option(group: Group, model: ModelSpec, judged: Judged, level: int, order: int, refusals: list[str]) -> Option:
    choice, on_cpu = judged.choice, group.card.vendor == "cpu"
    peak = 0 if on_cpu else judged.host.ram_bytes or 0
    resident = 0 if on_cpu else judged.host.resident_bytes or 0
    if choice.engine is Engine.LLAMACPP:
        choice = replace(choice, reasons=(*choice.reasons, *refusals[:2]))
    return Option(
        model, judged.variant, choice, judged.workload, judged.verdict, judged.bill.total_bytes, resident, max(0, peak - resident),
        level, order, predict(group.card, model, choice, judged.workload, judged.bill, judged.variant.quant),
    )  # fmt: skip
