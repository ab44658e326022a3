"""The queue on simulated cards, short: `make bench-routing` is the long form."""

from __future__ import annotations

import pytest

from services.gateway.lane_speed import LaneSpeed
from tests.bench.routing_run import UNITS, Case, capacity, measure, run


def good(policy: str, load: float, mix: str = "six unequal", slower: int | None = None) -> float:
    return measure(Case(mix, load, policy, seed=0, seconds=40.0, slower=slower)).good


def test_the_mix_is_as_described() -> None:
    assert capacity("six unequal") == pytest.approx(1637, abs=1)
    assert capacity("six unequal") / UNITS == pytest.approx(25, abs=0.5)


def test_the_simulator_agrees_with_measured_round_robin() -> None:
    """Measured over sockets with the same cards: 54-64 % good at 50 % load, 37-38 % at 95 %."""
    assert 0.45 <= good("round robin", 0.5) <= 0.68
    assert 0.30 <= good("round robin", 0.95) <= 0.42


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
def test_nearly_all_is_good_up_to_95_percent(load: float) -> None:
    assert good("rigserve", load) >= 0.98


def test_overload_keeps_goodput() -> None:
    assert good("rigserve", 1.2) >= 0.80
    assert good("rigserve, slots learned", 1.2) >= 0.80


def test_slots_learned_from_nothing() -> None:
    assert good("rigserve, slots learned", 0.8) >= 0.97


def test_a_card_that_turns_slow() -> None:
    assert good("rigserve", 0.8, slower=3) >= 0.97


def share_of_slow_cards() -> float:
    requests = run(Case("six unequal", 0.5, "rigserve", seed=0, seconds=40.0))
    return sum(request.card in (3, 4, 5) for request in requests) / len(requests)


def test_learned_speeds_leave_the_slow_cards_alone_at_half_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it learned the three slowest cards get next to nothing; with lanes that can't learn they get a good part."""
    assert share_of_slow_cards() < 0.05
    monkeypatch.setattr(LaneSpeed, "learn", lambda self, measured_s: None)
    assert share_of_slow_cards() > 0.15
