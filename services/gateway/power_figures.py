"""Tokens and images for a joule, and what they cost. Pure."""

from __future__ import annotations

from typing import TypedDict

from services.sizing.economics import Tariff, cost_per_million_tokens, cost_per_thousand_images

NO_TARIFF = "the gateway knows no tariff: start it with --tariff PRICE_PER_KWH (or RIGSERVE_TARIFF)"


class PowerFigures(TypedDict):
    """None: not known. Tokens are output tokens; costs are the electricity of cards, in the tariff's currency."""

    output_tokens_per_joule: float | None
    joules_per_output_token: float | None
    joules_per_image: float | None
    cost_per_million_output_tokens: float | None
    cost_per_image: float | None


FIGURES = tuple(PowerFigures.__annotations__)


def power_figures(text_watts: float, tokens_per_s: float | None, image_watts: float, images_per_s: float | None,
                  tariff: Tariff | None) -> PowerFigures:  # fmt: skip
    """`text_watts` and `image_watts`: what text and images drew. Worked number: 100 W and 50 tokens/s: 0.5 tokens a joule, 2 J a token;
    a million tokens are 20,000 s, 0.5556 kWh, at 0.30 a kWh 0.1667."""
    per_thousand = cost_per_thousand_images(image_watts, images_per_s * 60, tariff) if tariff and images_per_s else None
    return {
        "output_tokens_per_joule": round(tokens_per_s / text_watts, 6) if tokens_per_s and text_watts > 0 else None,
        "joules_per_output_token": round(text_watts / tokens_per_s, 6) if tokens_per_s else None,
        "joules_per_image": round(image_watts / images_per_s, 6) if images_per_s else None,
        "cost_per_million_output_tokens": _rounded(cost_per_million_tokens(text_watts, tokens_per_s, tariff) if tariff else None),
        "cost_per_image": _rounded(None if per_thousand is None else per_thousand / 1000),
    }


def _rounded(cost: float | None) -> float | None:
    return None if cost is None else round(cost, 9)
