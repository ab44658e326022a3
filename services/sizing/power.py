"""Watts: which cap serves most tokens for a joule, and how a power supply's budget is dealt to the cards. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# Where no sweep of a card is known. Decoding on an RTX 3090 lost 1-3 % for 20-30 % less power (llmgarage: 350 W 72.6 tok/s, 250 W 70.7;
# jeanfbrito: 280 of 350 W under 1 %).
USUAL_SHARE = 0.75
KEEP = 0.8
STEPS = 8


class BudgetError(ValueError):
    """The budget can't be dealt out. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a sweep: the cap, and what was measured under it (mean power of the card, tokens of all requests together)."""

    cap_watts: float
    watts: float
    tok_s: float

    @property
    def tok_per_j(self) -> float:
        """Tokens per second over joules per second. Worked number: 707 tok/s at 437 W: 1.62."""
        return self.tok_s / self.watts


@dataclass(frozen=True, slots=True)
class CardPower:
    """What one board allows (watts; None where the driver doesn't tell), what a sweep of it found, and the speed that it was to keep."""

    card_id: str
    name: str
    least_watts: float | None
    most_watts: float | None
    default_watts: float | None
    points: tuple[Point, ...] = ()
    keep: float = KEEP


@dataclass(frozen=True, slots=True)
class Share:
    """One card's part of the budget, in whole watts, and why it is that."""

    card_id: str
    name: str
    watts: float
    why: str


def best(points: Sequence[Point], keep: float = KEEP) -> Point | None:
    """1. Nothing measured: none. 2. Those that keep `keep` of the fastest's speed; 3. of them the most tokens per joule, then the lowest.

    Worked number (CMP 170HX, 4 cards, club-170hx, tok/s at watts a card): 165 W 822, 140 W 814, 120 W 756, 110 W 707, 100 W 627. At least
    80 % of 822 are 658: 110 W, with 707 / 110 the most for a joule; at least 90 % (740): 120 W.
    """
    if not points:  # 1
        return None
    fastest = max(point.tok_s for point in points)
    kept = [point for point in points if point.tok_s >= keep * fastest]  # 2
    return max(kept, key=lambda point: (point.tok_per_j, -point.cap_watts))  # 3


def sweep_caps(least_watts: float, start_watts: float, step_watts: float | None = None) -> tuple[float, ...]:
    """From where it is now down to the least that the board takes. Worked number: 100 to 350 W, steps of 32 W: 350, 318, ... 126, 100."""
    step = step_watts or max(1.0, math.ceil((start_watts - least_watts) / STEPS))
    count = math.ceil((start_watts - least_watts) / step)
    return (*(start_watts - step * index for index in range(count)), least_watts)


@dataclass(slots=True)
class _Dealt:
    card: CardPower
    least: float
    ceiling: float
    target: float
    why: str
    watts: float = field(init=False)

    def __post_init__(self) -> None:
        self.watts = self.least


def split(budget_watts: float, cards: Sequence[CardPower]) -> tuple[Share, ...]:
    """A cap for every card; together never more than the budget.

    1. A card whose range nobody tells can't be capped: refused, for it would draw what it likes.
    2. The least that all boards take together is more than the budget: refused.
    3. Every card has its least. What is left goes first towards its efficient cap (most tokens per joule of its sweep; without one,
       75 % of its default), all by the same part of their way.
    4. What is left then goes where the next watts were measured to bring most tokens per second; no card above its default.
    5. What is still left goes to the cards without a sweep, up to their default, all by the same part of their way.

    Worked number: two cards of 100 to 350 W, neither swept, and 450 W: both are 250 / 325 of the way from 100 to 262 W: 225 W each.
    """
    dealt = [_start(card) for card in cards]  # 1
    least = sum(one.least for one in dealt)
    if least > budget_watts:  # 2
        each = ", ".join(f"{one.card.name} {one.least:.0f} W" for one in dealt)
        raise BudgetError(
            f"the boards take no cap below {least:.0f} W together ({each}), and the budget is {budget_watts:.0f} W: take out a card, or "
            "raise --rig-watts if the power supply can."
        )
    left = _towards(dealt, [one.target for one in dealt], budget_watts - least)  # 3
    left = _by_gain(dealt, left)  # 4
    unswept = [one for one in dealt if not one.card.points]
    _towards(unswept, [one.ceiling for one in unswept], left)  # 5
    return tuple(Share(one.card.card_id, one.card.name, max(one.least, math.floor(one.watts)), one.why) for one in dealt)


def _start(card: CardPower) -> _Dealt:
    ceiling = card.default_watts or card.most_watts
    if card.least_watts is None or ceiling is None:
        raise BudgetError(f"{card.name} ({card.card_id}) tells no range of its power cap, so its draw can't be limited: leave it out.")
    if card.most_watts is not None:
        ceiling = min(ceiling, card.most_watts)
    ceiling = max(ceiling, card.least_watts)
    found = best(card.points, card.keep)
    if found is not None:
        target, why = found.cap_watts, f"most tokens per joule in its sweep at {found.cap_watts:.0f} W"
    else:
        target, why = USUAL_SHARE * ceiling, f"not swept; {USUAL_SHARE:.0%} of its default is {USUAL_SHARE * ceiling:.0f} W"
    return _Dealt(card, card.least_watts, ceiling, min(ceiling, max(card.least_watts, target)), why)


def _towards(dealt: Sequence[_Dealt], aims: Sequence[float], left_watts: float) -> float:
    """All by the same part of the way from where they are to their aim. Returns what is left."""
    wanted = sum(max(0.0, aim - one.watts) for one, aim in zip(dealt, aims, strict=True))
    part = min(1.0, left_watts / wanted) if wanted > 0 else 0.0
    for one, aim in zip(dealt, aims, strict=True):
        one.watts += part * max(0.0, aim - one.watts)
    return max(0.0, left_watts - part * wanted)


def _by_gain(dealt: Sequence[_Dealt], left_watts: float) -> float:
    """One measured step after another, the steepest first. Returns what is left."""
    while left_watts > 0:
        steps = [(gain, index) for index, one in enumerate(dealt) if (gain := _next_gain(one)) > 0]
        if not steps:
            break
        one = dealt[max(steps)[1]]
        to = min(point.cap_watts for point in one.card.points if point.cap_watts > one.watts)
        more = min(left_watts, min(to, one.ceiling) - one.watts)
        one.watts, left_watts = one.watts + more, left_watts - more
    return left_watts


def _next_gain(one: _Dealt) -> float:
    """Tokens per second for a watt, from the measured point at or below to the next above; 0 at the end or at the ceiling."""
    below = [point for point in one.card.points if point.cap_watts <= one.watts]
    above = [point for point in one.card.points if point.cap_watts > one.watts]
    if not below or not above or one.watts >= one.ceiling:
        return 0.0
    low, high = max(below, key=lambda point: point.cap_watts), min(above, key=lambda point: point.cap_watts)
    return (high.tok_s - low.tok_s) / (high.cap_watts - low.cap_watts)
