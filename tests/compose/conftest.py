"""The engine and the images. Where no engine can be had, tests are skipped with the reason, or fail if RIGSERVE_REQUIRE_DOCKER is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.compose.engine import Engine, Images, NoEngineError, engine


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
