"""What the scenarios stand on: a gateway over fake engines, by both ways, as new before each test and without a taken seat after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.process import fake_engine  # noqa: F401
from tests.reliability.scenarios import Seen
from tests.reliability.stack import WAYS, Stack


@pytest.fixture
def seen() -> Seen:
    """Call it with what was observed: it comes into docs/reliability.md."""
    return Seen()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every scenario is known by its number in the reports, whatever becomes of it."""
    for item in items:
        mark = item.get_closest_marker("scenario")
        if mark is not None and not any(name == "scenario" for name, _ in item.user_properties):
            item.user_properties.append(("scenario", mark.args[0]))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What was observed goes with the report."""
    outcome: Any = yield
    funcargs = getattr(item, "funcargs", {})
    report = outcome.get_result()
    if report.when == "call" and isinstance(funcargs.get("seen"), Seen):
        report.user_properties = [*item.user_properties, ("seen", funcargs["seen"].said)]


@pytest.fixture(scope="session")
def _stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stack]]:
    running: dict[str, Stack] = {}
    yield running
    for stack in running.values():
        stack.stop()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(way: str, _stacks: dict[str, Stack], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway with short deadlines over three engines (`solo`; `twin` twice), as new; afterwards every seat must be free."""
    if way not in _stacks:
        _stacks[way] = Stack(tmp_path_factory.mktemp(way), way)
    one = _stacks[way]
    one.as_new()
    yield one
    one.settle()

