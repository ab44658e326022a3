from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.fakes import process
from tests.fakes.process import FakeEngineProcess, fake_engine  # noqa: F401
from tests.gateway.rig import GatewayProcess, Rig, start_gateway, start_rig, until

SHORT = ("--deadline-first-byte-s", "0.5", "--deadline-inter-token-s", "0.5", "--deadline-queue-s", "0.6", "--limit-queue", "2",
         "--limit-backend-slots", "3", "--breaker-open-s", "0.1")


@pytest.fixture(scope="session")
def _rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = start_rig(tmp_path_factory.mktemp("rig"))
    rig.gateway.wait_ready()
    yield rig
    rig.stop()


@pytest.fixture
def rig(_rig: Rig) -> Iterator[Rig]:
    """A gateway over a plan, as new; afterwards every seat must be free."""
    yield from as_new(_rig, _rig.gateway, list(_rig.engines.values()))


T = TypeVar("T")


def as_new(stack: T, gateway: GatewayProcess, engines: list[FakeEngineProcess]) -> Iterator[T]:
    for engine in engines:
        engine.reset()
    yield stack
    dirty = [engine for engine in engines if engine.dirty]
    for engine in dirty:
        engine.reset()
    until(lambda: gateway.seats() == 0, "all seats back to 0")
    if dirty:
        gateway.wait_ready()


class Loose:
    """A gateway over `--backend`s with short deadlines: `solo` once, `twin` twice."""

    def __init__(self, folder: Path) -> None:
        self.solo, self.one, self.two = process.start("solo"), process.start("twin"), process.start("twin")
        flags = [f"--backend={model}={engine.url}/v1" for model, engine in (("solo", self.solo), ("twin", self.one), ("twin", self.two))]
        self.gateway = start_gateway(folder, *flags, *SHORT)

    @property
    def engines(self) -> list[FakeEngineProcess]:
        return [self.solo, self.one, self.two]


@pytest.fixture(scope="session")
def _loose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loose]:
    loose = Loose(tmp_path_factory.mktemp("loose"))
    loose.gateway.wait_ready()
    yield loose
    loose.gateway.stop()
    for engine in loose.engines:
        engine.stop()


@pytest.fixture
def loose(_loose: Loose) -> Iterator[Loose]:
    """A gateway over `--backend`s, as new; afterwards every seat must be free."""
    yield from as_new(_loose, _loose.gateway, _loose.engines)


@pytest.fixture
def gateway(_loose: Loose) -> Iterator[GatewayProcess]:
    """The same gateway, for tests that leave its engines alone."""
    yield _loose.gateway
    until(lambda: _loose.gateway.seats() == 0, "all seats back to 0")
