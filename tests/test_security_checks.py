"""The table of security checks is true: each has a test or says what it lacks, each test exists, and the page is the table's."""

from __future__ import annotations

import pytest

from tests.security_checks import CHECKS, PAGE, names_in, page


@pytest.mark.parametrize("number", range(1, 33))
def test_every_check_has_its_tests(number: int) -> None:
    check = CHECKS[number]
    assert check.tests or check.lacks
    for file, names in check.tests.items():
        assert set(names.split()) <= names_in(file), file


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf8") == page(), "run `python -m tests.security_checks`"
