"""Watts: the worked numbers, and what must hold of every budget."""

from __future__ import annotations

import random

import pytest

from services.sizing.power import BudgetError, CardPower, Point, best, split, sweep_caps

# club-170hx, four CMP 170HX with 8 users: watts a card and tok/s of all.
TOLD = ((165, 822), (150, 816), (140, 814), (130, 786), (120, 756), (110, 707), (100, 627))
HX170 = tuple(Point(watts, watts, tok_s) for watts, tok_s in TOLD)
UNSWEPT = CardPower("GPU-a", "RTX 3090", 100, 400, 350)


def watts(budget: float, *cards: CardPower) -> list[float]:
    return [share.watts for share in split(budget, cards)]


def test_the_worked_numbers() -> None:
    assert Point(110, 437, 707).tok_per_j == pytest.approx(1.62, abs=0.003)
    assert best(HX170).cap_watts == 110  # type: ignore[union-attr]
    assert best(HX170, 0.9).cap_watts == 120  # type: ignore[union-attr]
    assert best(()) is None
    caps = sweep_caps(100, 350)
    assert (caps[0], caps[1], caps[-2:], len(caps)) == (350, 318, (126, 100), 9)
    assert sweep_caps(100, 100) == (100,)
    assert sweep_caps(100, 150, 25) == (150, 125, 100)
    assert watts(450, UNSWEPT, UNSWEPT) == [225, 225]


def test_the_efficient_cap_first_then_where_a_watt_brings_most() -> None:
    swept = CardPower("GPU-h", "CMP 170HX", 100, 250, 165, HX170)
    assert watts(110 + 262.5, swept, UNSWEPT) == [110, 262], "all at their efficient caps"
    # 110 -> 120 W brings 4.9 tok/s a watt, 120 -> 130 3.0, 130 -> 140 2.8, 140 -> 150 0.2, 150 -> 165 0.4; then the unswept to 350 W
    assert watts(130 + 262.5, swept, UNSWEPT) == [130, 262]
    assert watts(165 + 300, swept, UNSWEPT) == [165, 300]
    assert watts(10_000, swept, UNSWEPT) == [165, 350], "no card above its default, whatever the supply gives"
    two = (swept, CardPower("GPU-g", "weak", 100, 250, 165, (Point(100, 90, 10), Point(110, 100, 12), Point(165, 150, 15))))
    assert watts(110 + 110 + 30, *two) == [140, 110], "the strong one's next watts bring more"


def test_every_card_has_its_least_and_says_why() -> None:
    (share,) = split(100, [UNSWEPT])
    assert (share.watts, share.why) == (100, "not swept; 75% of its default is 262 W")
    with pytest.raises(BudgetError, match=r"no cap below 200 W together \(RTX 3090 100 W, RTX 3090 100 W\), and the budget is 150 W"):
        split(150, [UNSWEPT, UNSWEPT])
    with pytest.raises(BudgetError, match=r"P106 .* tells no range"):
        split(500, [CardPower("GPU-p", "P106", None, None, 120)])
    assert split(500, []) == ()


def test_no_budget_is_overdrawn_and_more_never_gives_less() -> None:
    draw = random.Random(6)
    for _ in range(200):
        cards = []
        for number in range(draw.randint(1, 12)):
            least, top = draw.randint(60, 120), draw.randint(121, 400)
            caps = sweep_caps(least, top) if draw.random() < 0.5 else ()
            points = tuple(Point(cap, cap * draw.uniform(0.6, 1), draw.uniform(1, 900)) for cap in caps)
            cards.append(CardPower(f"GPU-{number}", "x", least, top + draw.randint(0, 50), top, points))
        budget = sum(card.least_watts or 0 for card in cards) * draw.uniform(1, 3)
        shares = split(budget, cards)
        assert sum(share.watts for share in shares) <= budget + 1e-6
        assert all((c.least_watts or 0) <= s.watts <= (c.default_watts or 0) for c, s in zip(cards, shares, strict=True))
        more = split(budget * 1.3, cards)
        assert all(high.watts >= low.watts for low, high in zip(shares, more, strict=True))
