"""One stack with real vLLM and real diffusers for all e2e tests that do not break it for good."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.e2e.stack import RunningStack, start, stop

LLM = "smollm2-135m-instruct"
IMAGE = "digits-sd"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """`rigserve serve` with its defaults: on a machine without a GPU, vLLM and diffusers on one simulated CPU card."""
    running = start(tmp_path_factory.mktemp("stack"))
    yield running
    left = stop(running, signal.SIGTERM)
    assert not left, f"still running after SIGTERM: {left}"
    assert "Traceback" not in running.log.read_text(errors="replace")


@pytest.fixture
def client(stack: RunningStack) -> Iterator[OpenAI]:
    """The unmodified SDK, without its own retries so that every error is seen."""
    with OpenAI(base_url=f"{stack.url}/v1", api_key="any", max_retries=0, timeout=120) as made:
        yield made
