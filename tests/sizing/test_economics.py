"""Costs: the worked numbers, and nothing where power or speed is unknown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from services.sizing.cards import load_cards, parse_cards, simulated_cpu_card
from services.sizing.economics import (
    Tariff,
    TariffError,
    cost_per_day,
    cost_per_million_tokens,
    cost_per_thousand_images,
    hashrate_mh_s,
    power_of,
)

TARIFF = Tariff(0.25, "EUR")


def test_worked_numbers() -> None:
    assert cost_per_million_tokens(200, 62.8, TARIFF) == pytest.approx(0.221, abs=0.0005)
    assert cost_per_thousand_images(170, 14.1, TARIFF) == pytest.approx(0.0502, abs=0.0001)
    assert cost_per_day(200, TARIFF) == pytest.approx(1.20)


@pytest.mark.parametrize(("watts", "speed"), [(None, 10.0), (200.0, None), (200.0, 0.0), (None, None)])
def test_unknown_stays_unknown(watts: float | None, speed: float | None) -> None:
    assert cost_per_million_tokens(watts, speed, TARIFF) is None
    assert cost_per_thousand_images(watts, speed, TARIFF) is None
    assert cost_per_day(None, TARIFF) is None


def test_a_faster_card_of_the_same_power_is_cheaper() -> None:
    slow, fast = (cost_per_million_tokens(200, speed, TARIFF) for speed in (30.0, 60.0))
    assert slow is not None
    assert fast is not None
    assert slow == pytest.approx(2 * fast)


@pytest.mark.parametrize("price", [0.0, -1.0, math.inf, math.nan, 1e9])
def test_a_price_that_is_none(price: float) -> None:
    with pytest.raises(TariffError, match="price"):
        Tariff(price, "EUR")


@pytest.mark.parametrize("currency", ["", "EURO<b>", "E R", "1", "dollars", "<>", "€€"])
def test_a_currency_that_is_none(currency: str) -> None:
    with pytest.raises(TariffError, match="currency"):
        Tariff(0.25, currency)


@pytest.mark.parametrize("currency", ["EUR", "€", "kr", "Ft", "руб"])
def test_currencies(currency: str) -> None:
    assert Tariff(0.25, currency).currency == currency


def test_power_comes_from_the_driver_then_from_the_table() -> None:
    card = parse_cards("RTX 3060 Ti")[0]
    assert power_of(card).watts == 200
    assert "TechPowerUp" in power_of(card).basis
    assert power_of(replace(card, power_limit_watts=130.0)).watts == 130
    assert "driver" in power_of(replace(card, power_limit_watts=130.0)).basis
    assert "not certain" in power_of(parse_cards("P104-100 8GB")[0]).basis
    assert power_of(parse_cards("P104-101")[0]).watts is None
    assert power_of(simulated_cpu_card(2**30)).watts is None


def test_hash_rates_are_the_table_s() -> None:
    rates = {spec.key: hashrate_mh_s(spec) for spec in load_cards()}
    assert rates["RTX 3060 Ti 8GB"] == (60.5, 60.5)
    assert rates["P104-100 8GB"] == (34.5, 37.0)
    assert rates["RX 580 8GB"] is None
    assert hashrate_mh_s(None) is None
    assert all(rate is None or 5 < rate[0] <= rate[1] < 200 for rate in rates.values())
