"""`rigserve upgrade` on a running stack: one placement after the other, and nobody who asks notices."""

from __future__ import annotations

import pytest

from tests.compose.faults import OTHER, VICTIM, healed
from tests.compose.rigs import LLM
from tests.compose.running_stack import RunningStack
from tests.compose.steady_client import SteadyClient

pytestmark = pytest.mark.compose


def started(stack: RunningStack) -> dict[str, str]:
    return {service: stack.inspect(service)["State"]["StartedAt"] for service in ("gateway", VICTIM, OTHER)}


def test_every_worker_is_made_anew_and_no_request_fails(replicas: RunningStack) -> None:
    """The drain time in the file has changed, so every worker is out of date. Each is drained, made anew and waited for before the next."""
    before, plan = started(replicas), replicas.folder / "plan.yaml"
    compose = ("compose", str(plan), "-o", str(replicas.folder), "--name", replicas.name, "--port", str(replicas.port))
    replicas.rigserve(*compose, "--drain-s", "9")
    dry = replicas.rigserve("upgrade", "--file", str(replicas.file), "--dry-run").stdout
    assert [line.partition(":")[0] for line in dry.splitlines()] == [VICTIM, OTHER]
    assert started(replicas) == before, "a dry run touches nothing"
    with SteadyClient(replicas.url, LLM).asking() as client:
        done = replicas.rigserve("upgrade", "--file", str(replicas.file))
    after = started(replicas)
    assert after["gateway"] == before["gateway"]
    assert after[VICTIM] != before[VICTIM]
    ready = next(stamp for stamp, text in replicas.logs(VICTIM) if text.startswith("worker ") and text.endswith(": ready"))
    assert after[OTHER] > ready, "the second was begun before the first was back"
    assert f"{VICTIM}, {OTHER}" in done.stdout
    assert client.failed == []
    assert {one.backend for one in client.seen} == {VICTIM, OTHER}
    assert len(client.seen) > 20
    again = replicas.rigserve("upgrade", "--file", str(replicas.file)).stdout
    assert "nothing" in again
    assert healed(replicas)


def test_an_upgrade_that_would_fail_stops_before_it_touches_anything(replicas: RunningStack) -> None:
    """The file names an image that is not there."""
    text = replicas.file.read_text(encoding="utf8")
    before = started(replicas)
    replicas.file.write_text(text.replace("rigserve/llm-llamacpp:", "rigserve/llm-llamacpp:none-"), encoding="utf8")
    try:
        refused = replicas.rigserve("upgrade", "--file", str(replicas.file), check=False)
    finally:
        replicas.file.write_text(text, encoding="utf8")
    assert refused.returncode == 1
    assert "rigserve/llm-llamacpp:none-" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert started(replicas) == before
