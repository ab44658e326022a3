"""What cards could earn their keep with: what each can serve, best first, how fast, and what that costs in electricity.

All speeds are predicted; every figure carries its basis, and one without a source is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.sizing.cards import spec_of
from services.sizing.catalogue import Catalogue
from services.sizing.economics import (
    COST_IS,
    LESS_WHEN_DECODING,
    Power,
    Tariff,
    cost_per_day,
    cost_per_million_tokens,
    cost_per_thousand_images,
    hashrate_mh_s,
    power_of,
)
from services.sizing.fit import default_workloads, fit
from services.sizing.plan import Goal, make_plan
from services.sizing.plan_goals import uncut, work_of
from services.sizing.plan_options import Group, group_cards
from services.sizing.quality import merits
from services.sizing.types import Card, FitReport, Host, ModelSpec, Plan, TextWorkload, Verdict, Workload

# Models shown for each kind of work and card; the whole list is `rigserve models --card`.
MOST_OF_A_WORK = 4
ORDER = ("chat", "chat with pictures", "image", "embedding", "rerank")


@dataclass(frozen=True, slots=True)
class Offer:
    """One model on one card. Costs are electricity of the card alone at full power, in the tariff's currency; of an embedding model's
    tokens read, of the others' tokens written."""

    model_id: str
    title: str
    work: str
    params: int | None
    quant: str | None
    engine: str | None
    verdict: Verdict
    need_bytes: int | None
    headroom_bytes: int | None
    decode_tok_s: float | None
    prefill_tok_s: float | None
    images_per_min: float | None
    cost_per_million_tokens: float | None
    cost_per_thousand_images: float | None
    basis: str


@dataclass(frozen=True, slots=True)
class CardAdvice:
    """One kind of card. `hashrate_mh_s` is (lowest, highest) published; sources are the card table's."""

    card_name: str
    card_ids: tuple[str, ...]
    simulated: bool
    total_bytes: int
    power: Power
    hashrate: str | None
    hashrate_mh_s: tuple[float, float] | None
    sources: str
    servable: int
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class RigTotal:
    """The whole rig under one goal: predicted sums over its placements. `unknown` placements have no predicted speed and are not in the
    sums; None where nothing is known."""

    goal: str
    placements: int
    unknown: int
    decode_tok_s: float | None
    images_per_min: float | None
    watts: float | None
    cost_per_day: float | None
    cost_per_million_tokens: float | None
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer of `rigserve advise`."""

    tariff: Tariff
    cards: tuple[CardAdvice, ...]
    totals: tuple[RigTotal, ...]
    notes: tuple[str, ...]


def servable(card: Card, host: Host, catalogue: Catalogue, have_bytes: int | None = None) -> tuple[FitReport, ...]:
    """Every model that the card can serve, best first within its kind of work: chat, chat with pictures, images, embeddings.

    1. Served well before made to fit: at the usual context or size, with its reserve, in an acceptable quantization, whole on the card,
       and fast enough to read along. Fewer sequences at once is no cut here: a large model for one person beats a toy for four.
    2. Quality: published scores, and what size lets expect where there is none (`quality.merits`).
    3. Speed: predicted tokens a second, or images a minute.
    """
    worth = merits(catalogue.models)
    known = {model.id: model for model in catalogue.models}
    reports = [report for model in catalogue.models if (report := fit(card, model, host, have_bytes=have_bytes)).fits]

    def rank(report: FitReport) -> tuple[int, bool, float, float]:
        model = known[report.model_id]
        speed = (report.speed.decode_tok_s or report.speed.images_per_min or 0.0) if report.speed else 0.0
        return ORDER.index(work_of(model)), not _well(model, report), -worth[model.id].points, -speed

    return tuple(sorted(reports, key=rank))


def _well(model: ModelSpec, report: FitReport) -> bool:
    variant = next(variant for variant in model.variants if variant.id == report.variant_id)
    assert report.choice is not None
    assert report.speed is not None
    return uncut(report.verdict, variant, report.choice, report.speed) and _full_size(report.workload, default_workloads(model)[0])


def _full_size(workload: Workload | None, usual: Workload) -> bool:
    if isinstance(workload, TextWorkload) and isinstance(usual, TextWorkload):
        return workload.context_tokens >= usual.context_tokens
    return workload == usual


def advise(host: Host, cards: tuple[Card, ...], catalogue: Catalogue, tariff: Tariff) -> Advice:
    """What each kind of card could do, and the whole rig under the goals quality and throughput."""
    found = tuple(_card_advice(group, host, catalogue, tariff) for group in group_cards(cards))
    plans = ((goal, make_plan(host, cards, catalogue, goal=goal)) for goal in (Goal.QUALITY, Goal.THROUGHPUT))
    totals = tuple(_total(goal.value, plan, tariff) for goal, plan in plans if plan.placements)
    return Advice(tariff, found, totals, (COST_IS, LESS_WHEN_DECODING))


def _card_advice(group: Group, host: Host, catalogue: Catalogue, tariff: Tariff) -> CardAdvice:
    card, spec = group.card, spec_of(group.card)
    known = {model.id: model for model in catalogue.models}
    reports = servable(card, host, catalogue, group.have_bytes)
    power = power_of(card)
    offers = [_offer(known[report.model_id], report, power, tariff) for report in reports]
    return CardAdvice(
        card.name, tuple(one.id for one in group.cards), card.simulated, card.total_bytes, power, spec.hashrate if spec else None,
        hashrate_mh_s(spec), spec.sources if spec else "the driver; the card is in no table", len(reports),
        tuple(_best_of_each_work(offers)),
    )  # fmt: skip


def _best_of_each_work(offers: Iterable[Offer]) -> Iterable[Offer]:
    """The best few of each kind of work, and the fastest chat model where it is none of them."""
    listed = list(offers)
    for work in ORDER:
        mine = [offer for offer in listed if offer.work == work]
        shown = mine[:MOST_OF_A_WORK]
        if work == "chat" and mine:
            usable = [offer for offer in mine if (offer.params or 0) >= (mine[0].params or 0) / 2]
            fastest = max(usable or mine, key=lambda offer: offer.decode_tok_s or 0.0)
            shown = shown if fastest in shown or not fastest.decode_tok_s else [*shown, fastest]
        yield from shown


def _offer(model: ModelSpec, report: FitReport, power: Power, tariff: Tariff) -> Offer:
    speed = report.speed
    decode, images = (speed.decode_tok_s, speed.images_per_min) if speed else (None, None)
    read = speed.prefill_tok_s if speed and model.kind in ("embedding", "rerank") else None
    return Offer(
        model.id, model.title, work_of(model), model.params, report.quant, report.choice.engine.value if report.choice else None,
        report.verdict, report.need_bytes, report.headroom_bytes, decode, speed.prefill_tok_s if speed else None, images,
        cost_per_million_tokens(power.watts, decode or read, tariff), cost_per_thousand_images(power.watts, images, tariff),
        speed.basis if speed else "",
    )  # fmt: skip


def _total(goal: str, plan: Plan, tariff: Tariff) -> RigTotal:
    speeds = [placement.report.speed for placement in plan.placements]
    decode = [speed.decode_tok_s for speed in speeds if speed and speed.decode_tok_s is not None]
    images = [speed.images_per_min for speed in speeds if speed and speed.images_per_min is not None]
    used = {placement.card_id for placement in plan.placements}
    chatting = {p.card_id for p in plan.placements if p.report.speed and p.report.speed.decode_tok_s is not None}
    watts, chat_watts = (_sum([power_of(card).watts for card in plan.cards if card.id in ids]) for ids in (used, chatting))
    tok_s = sum(decode) if decode else None
    return RigTotal(
        goal, len(plan.placements), len(speeds) - len(decode) - len(images), tok_s, sum(images) if images else None, watts,
        cost_per_day(watts, tariff), cost_per_million_tokens(chat_watts, tok_s, tariff),
        tuple(dict.fromkeys(placement.model_id for placement in plan.placements)),
    )  # fmt: skip


def _sum(watts: list[float | None]) -> float | None:
    """None as soon as one card's power is unknown: a sum without it would be too low."""
    return sum(one for one in watts if one is not None) if watts and None not in watts else None
