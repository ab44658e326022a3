"""Why one model is not split over several cards of a rig, with the measured numbers, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

from services.sizing.speed_data import link_bytes_per_s
from services.sizing.types import Card

# Narrower than this, splitting by tensor lost in every published measurement with several users.
WIDE_LANES = 8
MEASURED = (
    "Measured on two CMP 50HX over Gen2 x4 and x1 (vLLM, BTCpro): Qwen3-4B-AWQ makes 608 tok/s on one card and 237 split over two by "
    "tensor; Qwen3-14B-AWQ makes 134 split by tensor and 311 in a pipeline."
)


def tensor_parallel_refusal(cards: Sequence[Card], ways: int) -> str:
    """The sentence for somebody who asks for tensor parallelism over `ways` cards. Worked numbers: rig_facts section 5, rows 1-5."""
    narrow = [card for card in cards if card.link is None or (card.link.width or 0) < WIDE_LANES]
    if cards and not narrow:
        why = "rigserve runs one worker for each card, so a model is placed whole; these links are wide enough that splitting could pay."
    else:
        why = f"each token would cross the PCIe link of every card twice a layer{_links(narrow)}. {MEASURED}"
    instead = (
        "Instead: copies on cards of their own behind one gateway (--want MODEL:2), or a variant that fits one card "
        "(`rigserve fit MODEL --card CARD` lists them, nearest first)."
    )
    return f"Tensor parallelism over {ways} cards is refused: {why} {instead}"


def split_note(model_id: str, cards: Sequence[Card]) -> str:
    """For a model that fits no single card although all cards together could hold it."""
    return f"{model_id} fits no single card and is not split over several{_links(cards)}: {MEASURED} The refusal lists what fits instead."


def _links(cards: Sequence[Card]) -> str:
    known = sorted({(card.link.generation, card.link.width) for card in cards if card.link and card.link.generation and card.link.width})
    if not known:
        return " (on a riser x1, whatever the card could do)"
    return f" ({', '.join(f'gen{g} x{w}: {link_bytes_per_s(g, w) / 1e9:.2f} GB/s' for g, w in known)})"
