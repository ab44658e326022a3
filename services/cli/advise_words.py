"""Speeds and costs of an offer in words: the same in the text and in the report."""

from __future__ import annotations

from services.sizing.advise import Offer


def number(value: float | None, digits: int = 1) -> str:
    """`1,234.5`, or `unknown`."""
    return "unknown" if value is None else f"{value:,.{digits}f}"


def money(value: float | None, currency: str) -> str:
    """`1.25 EUR`, two significant digits below ten cents, or `unknown`."""
    if value is None:
        return "unknown"
    return f"{value:,.2f} {currency}" if value >= 0.1 else f"{value:.2g} {currency}"


def speed_words(offer: Offer) -> str:
    """The predicted speed in the unit of its work, or `unknown`."""
    if offer.decode_tok_s is not None:
        return f"{offer.decode_tok_s:.1f} tok/s"
    if offer.images_per_min is not None:
        return f"{offer.images_per_min:.1f} images/min"
    if offer.work == "embedding" and offer.prefill_tok_s is not None:
        return f"{offer.prefill_tok_s:,.0f} tok/s read"
    return "unknown"


def cost_words(offer: Offer, currency: str) -> str:
    """`0.22 EUR a million tokens`, `0.05 EUR a thousand images`, or `unknown`."""
    if offer.cost_per_million_tokens is not None:
        return f"{money(offer.cost_per_million_tokens, currency)} a million tokens{' read' if offer.work == 'embedding' else ''}"
    if offer.cost_per_thousand_images is not None:
        return f"{money(offer.cost_per_thousand_images, currency)} a thousand images"
    return "unknown"
