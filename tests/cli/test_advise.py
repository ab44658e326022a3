"""`rigserve advise`: text, JSON, and a report that is whole, escaped and asks for nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.advise_html import report_html
from services.cli.main import main
from services.cli.svg_bars import Bar, bars
from services.sizing.advise import Advice, advise
from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.economics import Tariff
from services.sizing.types import Host

pytestmark = pytest.mark.slow

RIG = ["--cards", "P106-100:2,RTX 3060 Ti,CMP 50HX", "--host-ram", "16"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["advise", *arguments])


class Reader(HTMLParser):
    """Every tag is closed in its order; collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def advice() -> Advice:
    host = Host(16 * 2**30, None, None, None)
    return advise(host, parse_cards("P106-100:2,RTX 3060 Ti,CMP 50HX"), load_catalogue(), Tariff(0.25, "EUR"))


def test_text_says_predicted_and_its_basis(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    shown = run(*RIG, "--tariff", "0.30", "--currency", "CHF", "--html", str(report))
    assert shown.exit_code == 0, shown.output
    assert f"written to {report}" in shown.output
    assert "CHF" in report.read_text(encoding="utf8")
    assert "All speeds are predicted" in shown.output
    assert "0.3 CHF a kWh" in shown.output
    assert "mined 21.2 MH/s (Ethash)" in shown.output
    assert "CHF a million tokens" in shown.output
    assert "CHF a thousand images" in shown.output
    assert "whole rig, goal throughput" in shown.output
    assert "[1] " in shown.output


def test_json_has_null_for_the_unknown() -> None:
    whole = json.loads(run(*RIG, "--json").output)
    assert whole["tariff"] == {"per_kwh": 0.25, "currency": "EUR"}
    offers = whole["cards"][2]["offers"]
    assert offers
    assert all(offer["decode_tok_s"] is None for offer in offers)


@pytest.mark.parametrize("arguments", [
    ["--tariff", "0"], ["--tariff", "nan"], ["--tariff", "-3"], ["--tariff", "cheap"], ["--currency", "<script>"], ["--cards", "RTX 9999"],
    ["--html", "/no/such/folder/report.html"], ["--html", ""], ["--cards", ""], ["--host-ram", ""],
])
def test_bad_input_is_a_sentence(arguments: list[str]) -> None:
    shown = run(*RIG, *arguments)
    assert shown.exit_code in (1, 2)
    assert "Error" in shown.output
    assert "Traceback" not in shown.output


def test_the_report_is_one_file_that_asks_for_nothing(advice: Advice) -> None:
    page = report_html(advice)
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert all(not (value or "").startswith(("http", "//")) for _, value in reader.attributes)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert reader.tags.count("svg") >= 5
    ids = {value for name, value in reader.attributes if name == "id"}
    links = {(value or "")[1:] for name, value in reader.attributes if name == "href"}
    assert links == ids, "every footnote is there, and is used"


def test_every_text_of_the_report_is_escaped(advice: Advice) -> None:
    evil = '<script>alert(1)</script>"&'
    card = advice.cards[0]
    offers = (replace(card.offers[0], model_id=evil, work="chat", quant=evil, basis=evil), *card.offers[1:])
    bad = replace(card, card_name=evil, hashrate=f"{evil} MH/s", sources=evil, offers=offers, power=replace(card.power, basis=evil))
    totals = tuple(replace(total, goal=evil, models=(evil,)) for total in advice.totals)
    page = report_html(replace(advice, cards=(bad,), totals=totals, notes=(evil,)))
    assert "script" not in read(page).tags


def test_bars_are_to_scale_and_the_unknown_has_none() -> None:
    drawn = bars("t", [Bar("a", 100.0, "100"), Bar("b", 50.0, "50"), Bar("c", None, "unknown"), Bar("d", 0.0, "0")])
    reader = read(drawn)
    widths = [float(value or 0) for name, value in reader.attributes if name == "width"]
    assert len(widths) == 3
    assert widths[0] == pytest.approx(2 * widths[1])
    assert drawn.count("unknown") == 2
    assert read(bars("t", [])).tags[0] == "svg"
    assert read(bars("t", [Bar("only", None, "unknown")])).tags.count("rect") == 0
