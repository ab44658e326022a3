"""Asks the sizing library whether something would fit, for refusals and for `POST /v1/fit`. Remembers what can't change."""

from __future__ import annotations

import asyncio
from typing import Any

from services.sizing.catalogue import Catalogue
from services.sizing.fit import WorkloadError, check_workload, fit
from services.sizing.planfile import to_json
from services.sizing.types import Card, Engine, FitReport, Host, ImageWorkload, ModelSpec, Placement, Plan, Workload
from services.wire.errors import InvalidValue

UNKNOWN_HOST = Host(None, None, None, None)


class FitBook:
    """The cards are the plan's; a gateway without a plan knows none."""

    def __init__(self, plan: Plan | None, catalogue: Catalogue | None) -> None:
        self.cards: tuple[Card, ...] = plan.cards if plan else ()
        self.host = plan.host if plan else UNKNOWN_HOST
        self.catalogue = catalogue
        self._known: dict[str, tuple[FitReport, ...]] = {}

    async def of_model(self, spec: ModelSpec) -> tuple[FitReport, ...]:
        """One report per card, at the card's best variant and workload. Sums in a thread: a large catalogue takes a while."""
        if spec.id not in self._known:
            self._known[spec.id] = await self.ask(spec, self.cards)
        return self._known[spec.id]

    async def ask(
        self, spec: ModelSpec, cards: tuple[Card, ...], *, variant: str | None = None, workload: Workload | None = None,
        engine: Engine | None = None,
    ) -> tuple[FitReport, ...]:
        """One report per card, for any question. Raises InvalidValue for a workload that can't be meant."""
        if workload is not None:
            try:
                check_workload(spec, workload)
            except WorkloadError as error:
                raise InvalidValue(str(error), param=str(error).partition(" ")[0]) from None

        def work() -> tuple[FitReport, ...]:
            return tuple(
                fit(card, spec, self.host, variant_id=variant, workload=workload, engine=engine, catalogue=self.catalogue) for card in cards
            )

        return await asyncio.to_thread(work)

    def of_image(self, spec: ModelSpec, placement: Placement, width_px: int, height_px: int) -> FitReport | None:
        """What an image of this size would need on the card of this placement; None when there is no arithmetic for it."""
        card = next((card for card in self.cards if card.id == placement.card_id), None)
        workload = ImageWorkload(width_px, height_px)
        try:
            check_workload(spec, workload)
        except WorkloadError:
            return None
        if card is None:
            return None
        return fit(card, spec, self.host, variant_id=placement.variant_id, workload=workload, engine=placement.choice.engine,
                   have_bytes=placement.report.have_bytes, catalogue=self.catalogue)


def reports_json(reports: tuple[FitReport, ...]) -> list[Any]:
    """The `fit` list of a 422 and of `POST /v1/fit`."""
    return [to_json(report) for report in reports]
