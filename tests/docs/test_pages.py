"""What is made of the docs is what the code says today; links lead somewhere; every error code has its entry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import api_page, card_table, trouble_page
from tests.docs.marks import API_PAGE, CONTRIBUTING, PROJECT, README, TROUBLE_PAGE, between, pages, replaced, rooms

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf8")


@pytest.mark.slow
def test_the_card_table_is_what_advise_prints() -> None:
    assert len(card_table.CARDS) == 12
    assert between(text_of(README), card_table.MARK) == card_table.table(card_table.ask()), "stale: run `make docs`"


def test_a_speed_is_never_made_up() -> None:
    offer = {"model_id": "m", "quant": "Q4", "decode_tok_s": None, "images_per_min": None}
    assert card_table.words(offer) == "m Q4, speed unknown"
    assert card_table.quickest([offer], "decode_tok_s") is None
    fastest = offer | {"decode_tok_s": 3.0}
    assert card_table.quickest([offer, offer | {"decode_tok_s": 2.0}, fastest], "decode_tok_s") == fastest


def test_the_api_reference_is_the_gateways_document() -> None:
    assert text_of(API_PAGE) == api_page.page(), "stale: run `make docs`"


def test_the_rooms_are_those_of_the_design() -> None:
    assert between(text_of(CONTRIBUTING), "rooms") == rooms(), "stale: run `make docs`"


def test_every_error_code_has_its_entry_and_no_other() -> None:
    page = text_of(TROUBLE_PAGE)
    entries = trouble_page.entries(page)
    assert set(entries) == set(trouble_page.codes())
    assert not [code for code, said in entries.items() if "**Do:**" not in said], "an entry says what to do"
    assert between(page, trouble_page.MARK) == trouble_page.table(page), "stale: run `make docs`"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = HEADING.findall(FENCED.sub("", text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", text_of(page))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: there is no {path}"
        assert target.is_relative_to(PROJECT)
        assert not anchor or anchor in anchors(target), f"{page.name}: {target.name} has no heading for #{anchor}"


def test_marks_keep_what_is_around_them() -> None:
    assert replaced("a\n<!-- m -->\nold\n<!-- /m -->\nz", "m", "new \\1") == "a\n<!-- m -->\nnew \\1\n<!-- /m -->\nz"
    with pytest.raises(AssertionError, match="lost its mark"):
        replaced("a", "m", "new")
