"""Writes what is made of the docs: `make docs`, or `python -m tests.docs`."""

from __future__ import annotations

from tests.docs import api_page, card_table
from tests.docs.marks import API_PAGE, README, replaced


def main() -> None:
    API_PAGE.write_text(api_page.page(), encoding="utf8")
    README.write_text(replaced(README.read_text(encoding="utf8"), card_table.MARK, card_table.table(card_table.ask())), encoding="utf8")


if __name__ == "__main__":
    main()
