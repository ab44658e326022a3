"""Energy of cards and its shares, on a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.energy import LONGEST_GAP_S, STALE_S, CardEnergy


def constant(watts: float = 100.0, seats: int = 1, until_s: int = 10, source: str = "integrated") -> CardEnergy:
    """Read once a second from 1000 s on."""
    card = CardEnergy()
    for second in range(until_s + 1):
        card.read("a", 1000.0 + second, 7.0 + watts * second, source, seats, 1000.0 + second)
    return card


def test_the_worked_numbers() -> None:
    two = constant(seats=2, until_s=1)
    assert two.share(1000.0, 1001.0, 2) == 50.0, "100 J in 1 s with 2 seats"
    assert two.share(1001.0, 1001.5, 2) == 25.0, "after the last reading at its 100 W, one of two seats"
    assert two.drawn(60, 1001.0).joules == pytest.approx(100)


def test_a_seat_over_many_readings() -> None:
    card = constant(seats=4)
    assert card.share(1001.5, 1008.5, 4) == pytest.approx(7 * 25)
    assert card.share(1003.25, 1003.5, 4) == pytest.approx(0.25 * 25), "read before it was asked for"
    assert card.share(1009.0, 1011.0, 4) == pytest.approx(25 + 25), "half of it is not read yet"


@given(st.lists(st.tuples(st.floats(0.5, 3), st.floats(0, 400), st.integers(1, 8)), min_size=2, max_size=30))
def test_the_shares_of_all_seats_are_what_was_drawn(ticks: list[tuple[float, float, int]]) -> None:
    """As many seats throughout as at both ends of a reading."""
    for seats in {1, ticks[0][2]}:
        card, now, joules = CardEnergy(), 5000.0, 0.0
        card.read("a", now, joules, "counter", seats, now)
        for step, watts, _ in ticks:
            now, joules = now + step, joules + step * watts
            card.read("a", now, joules, "counter", seats, now)
        share = card.share(5000.0, now, seats)
        assert share is not None
        assert share * seats == pytest.approx(joules)
        assert card.drawn(3600, now).joules == pytest.approx(joules)


def test_what_is_not_known_is_none() -> None:
    assert CardEnergy().share(1.0, 2.0, 1) is None
    once = CardEnergy()
    once.read("a", 1000.0, 5.0, "counter", 1, 1000.0)
    assert once.share(1000.0, 1000.5, 1) is None, "one reading is no power"
    card = constant()
    assert card.share(999.0, 1005.0, 1) is None, "seated before the first reading"
    assert card.share(1009.0, 1010.0 + STALE_S + 0.1, 1) is None, "its worker is silent"


def test_a_count_that_begins_anew_or_a_gap_claims_nothing() -> None:
    card = constant()
    card.read("a", 1011.0, 3.0, "integrated", 1, 1011.0)  # its worker was restarted
    card.read("a", 1012.0, 53.0, "integrated", 1, 1012.0)
    assert card.share(1011.0, 1012.0, 1) == 50.0
    assert card.share(1005.0, 1012.0, 1) is None
    assert card.drawn(60, 1012.0).joules == pytest.approx(1050)
    assert card.drawn(60, 1012.0).known_s == pytest.approx(11)
    late = 1012.0 + LONGEST_GAP_S + 1
    card.read("a", late, 9053.0, "integrated", 1, late)
    assert card.drawn(60, late).joules == pytest.approx(1050)


def test_two_workers_of_one_card() -> None:
    """An integral counts from its worker's start, so another worker's says nothing more; a counter is the card's own."""
    card = constant(until_s=2)
    card.read("b", 1002.5, 9000.0, "integrated", 1, 1002.5)
    card.read("a", 1003.0, 307.0, "integrated", 1, 1003.0)
    assert card.drawn(60, 1003.0).joules == pytest.approx(300)
    counter = constant(until_s=2, source="counter")
    counter.read("b", 1002.5, 257.0, "counter", 1, 1002.5)
    counter.read("a", 1003.0, 307.0, "counter", 1, 1003.0)
    counter.read("b", 1002.8, 287.0, "counter", 1, 1003.0)  # older than what is known
    counter.read("a", 1003.0, 307.0, "counter", 1, 1003.1)  # the same again
    assert counter.drawn(60, 1003.0).joules == pytest.approx(300)
    assert counter.drawn(60, 1003.0).source == "counter"


def test_a_day_keeps_two_hours_at_most() -> None:
    card = constant(until_s=8000)
    assert len(card._times) <= 7200
    assert card.share(8000.0, 9000.0, 1) == pytest.approx(100_000)
