"""For all tests: names of tests stay short, whatever their parameters are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST = 60


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """pytest hands the name of the running test to every child process in its environment, where 128 KiB is the limit for one value."""
    if isinstance(val, str | bytes) and len(val) > LONGEST:
        return f"{val[:LONGEST]!a}-{len(val)}"
    return None


@pytest.fixture(scope="session", autouse=True)
def _no_database_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keys and usage of whoever runs the tests stay out of them."""
    folder = tmp_path_factory.mktemp("state")
    before = {name: os.environ.get(name) for name in ("XDG_STATE_HOME", "DATABASE_URL")}
    os.environ["XDG_STATE_HOME"] = str(folder)
    os.environ.pop("DATABASE_URL", None)
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
