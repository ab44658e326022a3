"""The rule on a plan: is it for the cards that are here."""

from __future__ import annotations

from collections.abc import Iterator

from services.doctor.case import Case, cards_of, named, on_card
from services.doctor.finding import Finding, Severity

DESCRIBED = "The plan is for cards that were described with --cards: make it on the rig, or write each card's UUID there (NAME#GPU-...)."


def planned_cards(case: Case) -> Iterator[Finding]:
    """For each card that the plan uses: 1. simulated: note. 2. Not in this machine: error. 3. Less memory free than its bills: warning.
    4. Ok."""
    here = {card.id: card for card in cards_of(case)}
    used = {one.card_id for one in case.plan.placements} if case.plan else set()
    for planned in case.plan.cards if case.plan else ():
        if planned.id not in used:
            continue
        need = sum(one.report.need_bytes or 0 for one in (case.plan.placements if case.plan else ()) if one.card_id == planned.id)
        card = here.get(planned.id)
        # 1
        if planned.simulated:
            yield Finding(Severity.NOTE, planned.id, planned.name, "the plan uses a simulated card: engines run on the CPU")
        # 2
        elif card is None:
            there = ", ".join(f"{named(one)} {one.id}" for one in here.values()) or "none"
            yield Finding(
                Severity.ERROR,
                planned.id,
                named(planned),
                f"the plan uses {planned.id}, which is not in this machine (here: {there})",
                "Its container can't start.",
                fix="rigserve plan --out plan.yaml",
                advice="Or put the card back: riser, power, slot." if planned.driver_version else DESCRIBED,
            )
        # 3
        elif card.free_bytes is not None and card.free_bytes < need:
            yield on_card(
                Severity.WARNING,
                card,
                f"{card.free_bytes / 2**30:.2f} GiB free now, the plan needs {need / 2**30:.2f} GiB",
                "Something uses the card. If that is this plan's own stack, all is well.",
                fix=f"nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv -i {card.id}" if card.vendor == "nvidia" else None,
            )
        # 4
        else:
            yield on_card(Severity.OK, card, "is here and has room for its part of the plan")
