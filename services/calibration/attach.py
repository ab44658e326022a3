"""Observations -> what sizing reads: each card with what its kind was measured to take. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from services.calibration.record import HERE, Observation
from services.sizing.calibration import card_kind
from services.sizing.types import Card, Measured


def with_measured(cards: tuple[Card, ...], observations: Iterable[Observation]) -> tuple[Card, ...]:
    """Every card with the believed peaks of its kind: for each variant, way to run it and workload the highest that was measured here,
    else the highest that another rig measured."""
    best: dict[str, dict[tuple[object, ...], Observation]] = {}
    for one in observations:
        if not one.believed:
            continue
        about = (one.model_id, one.variant_id, one.choice, one.workload)
        mine = best.setdefault(one.card_kind, {})
        if about not in mine or _rank(one) > _rank(mine[about]):
            mine[about] = one
    return tuple(replace(card, measured=_rows(best.get(card_kind(card), {}).values())) for card in cards)


def _rank(one: Observation) -> tuple[bool, int]:
    return one.origin == HERE, one.peak_bytes or 0


def _rows(observations: Iterable[Observation]) -> tuple[Measured, ...]:
    return tuple(
        Measured(one.model_id, one.variant_id, one.choice, one.workload, one.peak_bytes or 0, one.engine_version,
                 "" if one.origin == HERE else one.origin)
        for one in observations
    )  # fmt: skip
