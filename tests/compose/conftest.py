"""The engine and the images. Where no engine can be had, tests are skipped with the reason, or fail if RIGSERVE_REQUIRE_DOCKER is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.compose.engine import Engine, Images, NoEngineError, engine
from tests.compose.faults_page import Row, write_page
from tests.compose.rigs import two_replicas
from tests.compose.running_stack import RunningStack, generate, up


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A running engine with the stand-in GPU hook, and base images under their public names."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(engine())
        except NoEngineError as error:
            if os.environ.get("RIGSERVE_REQUIRE_DOCKER"):
                pytest.fail(f"RIGSERVE_REQUIRE_DOCKER is set and no docker engine can be had: {error}")
            pytest.skip(f"no docker engine can be had: {error}")
        yield found


@pytest.fixture(scope="session")
def images(docker_engine: Engine) -> Images:
    """`images.reference("vllm-cpu")` builds that image once a session and names it."""
    return Images(docker_engine)


@pytest.fixture(scope="session")
def replicas(docker_engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One model with a replica on each of two simulated cards. Tests break it and leave it whole."""
    for environment in ("gateway", "llamacpp-cpu"):
        images.reference(environment)
    with up(generate(docker_engine, tmp_path_factory.mktemp("rig") / "two", two_replicas(), "--drain-s", "8")) as running:
        yield running


@pytest.fixture(scope="session")
def fault_rows() -> Iterator[list[Row]]:
    """What the fault tests measured; at the end of the session it becomes docs/faults.md, when that is asked for."""
    rows: list[Row] = []
    yield rows
    write_page(rows)
