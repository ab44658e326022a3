"""Advice: best first by its rule, every figure with a basis, unknown where nobody measured."""

from __future__ import annotations

import pytest

from services.sizing.advise import ORDER, Advice, advise, servable
from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.economics import Tariff, cost_per_million_tokens
from services.sizing.plan_goals import work_of
from services.sizing.quality import merits
from services.sizing.types import Host, Verdict

GIB = 2**30
HOST = Host(16 * GIB, 14 * GIB, "Xeon", 2, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
CATALOGUE = load_catalogue()
TARIFF = Tariff(0.30, "EUR")


@pytest.fixture(scope="module")
def advice() -> Advice:
    return advise(HOST, parse_cards("P106-100:2,RTX 3060 Ti,CMP 50HX"), CATALOGUE, TARIFF)


def test_the_list_is_ordered_by_its_rule() -> None:
    reports = servable(parse_cards("P106-100")[0], HOST, CATALOGUE)
    works = [ORDER.index(work_of(CATALOGUE.get(report.model_id))) for report in reports]
    assert works == sorted(works)
    assert all(report.fits for report in reports)
    worth = merits(CATALOGUE.models)
    chats = [report for report in reports if work_of(CATALOGUE.get(report.model_id)) == "chat"]
    usual = [worth[report.model_id].points for report in chats if report.verdict is Verdict.FITS and report.quant == "Q8_0"]
    assert usual == sorted(usual, reverse=True), "of what is served well the best first"
    first_tight = next(place for place, report in enumerate(chats) if report.verdict is Verdict.TIGHT)
    assert all(report.verdict is Verdict.FITS for report in chats[:first_tight])


def test_every_figure_has_a_basis(advice: Advice) -> None:
    assert [len(card.card_ids) for card in advice.cards] == [2, 1, 1]
    for card in advice.cards:
        assert card.power.watts is not None
        assert card.power.basis
        assert card.sources
        for offer in card.offers:
            assert offer.basis
            speeds = (offer.decode_tok_s, offer.images_per_min)
            tokens = offer.prefill_tok_s if offer.work == "embedding" else offer.decode_tok_s
            assert (offer.cost_per_million_tokens is None) == (tokens is None)
            assert (offer.cost_per_thousand_images is None) == (offer.images_per_min is None)
            assert None in speeds


def test_costs_are_the_cards_power_at_the_tariff(advice: Advice) -> None:
    card = advice.cards[1]
    offer = card.offers[0]
    assert offer.cost_per_million_tokens == cost_per_million_tokens(200.0, offer.decode_tok_s, TARIFF)


def test_the_mined_past_is_beside_it(advice: Advice) -> None:
    p106, ti, cmp = advice.cards
    assert (p106.hashrate, ti.hashrate, cmp.hashrate) == ("21.2 MH/s (Ethash)", "60.5 MH/s (Ethash)", "45 MH/s (Ethash)")
    assert "NBMiner" in p106.sources


def test_a_card_that_nobody_measured_has_no_speed(advice: Advice) -> None:
    cmp = advice.cards[2]
    assert cmp.offers
    assert all(offer.decode_tok_s is None and offer.images_per_min is None for offer in cmp.offers)
    assert all("No published" in offer.basis or "Not predicted" in offer.basis for offer in cmp.offers)


def test_the_rig_s_totals_add_up(advice: Advice) -> None:
    quality, throughput = advice.totals
    assert (quality.goal, throughput.goal) == ("quality", "throughput")
    assert quality.watts == 120 + 120 + 200 + 250
    assert quality.cost_per_day == pytest.approx(690 / 1000 * 24 * 0.30)
    assert quality.unknown >= 1, "the CMP 50HX"
    assert throughput.decode_tok_s is not None
    assert quality.decode_tok_s is not None
    assert throughput.decode_tok_s > quality.decode_tok_s


def test_a_simulated_card_is_labelled_and_costs_are_unknown() -> None:
    advice = advise(HOST, (simulated_cpu_card(4 * GIB),), CATALOGUE, TARIFF)
    card = advice.cards[0]
    assert card.simulated
    assert card.power.watts is None
    assert card.hashrate is None
    assert all(offer.decode_tok_s is None and offer.cost_per_million_tokens is None for offer in card.offers)
    assert all(total.watts is None and total.decode_tok_s is None for total in advice.totals)
