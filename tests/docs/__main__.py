"""Writes what is made of the docs: `make docs`, or `python -m tests.docs`."""

from __future__ import annotations

from pathlib import Path

from tests.docs import api_page, card_table, trouble_page
from tests.docs.marks import API_PAGE, CONTRIBUTING, README, TROUBLE_PAGE, replaced, rooms


def put(page: Path, mark: str, text: str) -> None:
    page.write_text(replaced(page.read_text(encoding="utf8"), mark, text), encoding="utf8")


def main() -> None:
    API_PAGE.write_text(api_page.page(), encoding="utf8")
    put(README, card_table.MARK, card_table.table(card_table.ask()))
    put(CONTRIBUTING, "rooms", rooms())
    put(TROUBLE_PAGE, trouble_page.MARK, trouble_page.table(TROUBLE_PAGE.read_text(encoding="utf8")))


if __name__ == "__main__":
    main()
