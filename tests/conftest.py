"""For all tests: names of tests stay short, whatever their parameters are."""

from __future__ import annotations

import pytest

LONGEST = 60


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """pytest hands the name of the running test to every child process in its environment, where 128 KiB is the limit for one value."""
    if isinstance(val, str | bytes) and len(val) > LONGEST:
        return f"{val[:LONGEST]!a}-{len(val)}"
    return None
