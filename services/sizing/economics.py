"""What serving costs in electricity, and what a card used to earn its keep with. Every figure has its source or is None."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.sizing.cards import spec_of
from services.sizing.types import Card, CardSpec

MOST_PER_KWH = 100_000.0
COST_IS = (
    "Costs are the electricity of the cards alone, at full power all the time and with one request at a time: an upper bound for a card, "
    "without the host, and without what several requests at once save."
)
LESS_WHEN_DECODING = "Decoding usually draws less: a CMP 50HX of 250 W drew 137 W with 12 requests (BTCpro parallelism test)."


class TariffError(ValueError):
    """A price of electricity or a currency that can't be meant; the message says why."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """Price of a kilowatt-hour in a currency. Raises TariffError for what is no price, or no name of a currency."""

    per_kwh: float
    currency: str

    def __post_init__(self) -> None:
        if not 0 < self.per_kwh <= MOST_PER_KWH:
            raise TariffError(f"{self.per_kwh} is no price of a kilowatt-hour; write for example --tariff 0.25.")
        if not re.fullmatch(r"[^\W\d_]{1,5}|[$€£¥₹₽₺₩₦₴₪฿₫]", self.currency):
            raise TariffError(f"{self.currency!r} is no currency; write its letters or its sign, for example --currency EUR.")


@dataclass(frozen=True, slots=True)
class Power:
    """What a card draws at most, and who says so."""

    watts: float | None
    basis: str


def power_of(card: Card) -> Power:
    """1. A simulated card has no power of its own. 2. The limit that the driver enforces now. 3. The table's board power. 4. Unknown."""
    spec = spec_of(card)
    # 1
    if card.vendor == "cpu":
        return Power(None, "A simulated card has no power of its own.")
    # 2
    if card.power_limit_watts is not None:
        return Power(card.power_limit_watts, "the power limit that the driver reports now")
    # 3
    if spec is not None and spec.tdp_watts is not None:
        uncertain = ", not certain" if "tdp_w" in spec.quirks.partition("not certain:")[2] else ""
        return Power(spec.tdp_watts, f"board power of {spec.key}{uncertain} ({spec.sources})")
    # 4
    return Power(None, "No board power is known for this card.")


def cost_per_million_tokens(watts: float | None, tok_s: float | None, tariff: Tariff) -> float | None:
    """Electricity of a million decoded tokens, one request at a time; None where power or speed is unknown.

    Worked number: 200 W and 62.8 tok/s at 0.25 a kWh: 1e6 / 62.8 = 15,924 s, 0.8847 kWh, 0.221.
    """
    if watts is None or not tok_s:
        return None
    return watts / 1000 * (1e6 / tok_s / 3600) * tariff.per_kwh


def cost_per_thousand_images(watts: float | None, images_per_min: float | None, tariff: Tariff) -> float | None:
    """Electricity of a thousand images; None where power or speed is unknown.

    Worked number: 170 W and 14.1 images a minute at 0.25 a kWh: 70.9 min, 0.2009 kWh, 0.0502.
    """
    if watts is None or not images_per_min:
        return None
    return watts / 1000 * (1000 / images_per_min / 60) * tariff.per_kwh


def cost_per_day(watts: float | None, tariff: Tariff) -> float | None:
    """24 hours at full power. Worked number: 200 W at 0.25 a kWh: 4.8 kWh, 1.20."""
    return None if watts is None else watts / 1000 * 24 * tariff.per_kwh


def hashrate_mh_s(spec: CardSpec | None) -> tuple[float, float] | None:
    """(lowest, highest) published Ethash rate of a product in MH/s; None where no source has one.

    Worked number: "34.5-37 MH/s (Ethash)" -> (34.5, 37.0).
    """
    if spec is None or spec.hashrate is None:
        return None
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", spec.hashrate.partition("MH/s")[0])]
    return (min(numbers), max(numbers)) if numbers else None
