"""Everything that can happen to a container, on real ones, with clients that go on asking. What is measured becomes docs/faults.md."""

from __future__ import annotations

import time

import pytest

from tests.compose.faults import OTHER, VICTIM, Fault, engine_pid, healed, measure, worker_pid
from tests.compose.faults_page import Bounds, Row
from tests.compose.rigs import LLM
from tests.compose.running_stack import RunningStack
from tests.compose.steady_client import SteadyClient, streams_on_each

pytestmark = pytest.mark.compose
# Takes memory until the kernel ends a process of this container, which is part of the time until that is noticed. The engine has been
# marked as the first to go: it is the one that grows.
EAT = "import sys; open(f'/proc/{sys.argv[1]}/oom_score_adj', 'w').write('1000'); kept = []\nwhile True: kept.append(b'x' * 2**24)"


def kill(stack: RunningStack) -> None:
    stack.compose("kill", VICTIM)


def start(stack: RunningStack) -> None:
    assert stack.inspect(VICTIM)["State"]["Status"] == "exited", "docker starts nothing again that was killed by hand"
    stack.compose("up", "--detach", "--no-build", "--no-recreate", VICTIM)


def pause(stack: RunningStack) -> None:
    stack.compose("pause", VICTIM)


def unpause(stack: RunningStack) -> None:
    stack.compose("unpause", VICTIM)


def unplug(stack: RunningStack) -> None:
    stack.engine.docker("network", "disconnect", f"{stack.name}_workers", stack.container(VICTIM))


def plug(stack: RunningStack) -> None:
    """As compose had it: the alias must be given again."""
    stack.engine.docker("network", "connect", "--alias", VICTIM, f"{stack.name}_workers", stack.container(VICTIM))


def out_of_memory(stack: RunningStack) -> None:
    """The container's own limit, met: the kernel ends the engine."""
    eating = ("exec", "-d", stack.container(VICTIM), "/opt/rigserve/.venv/bin/python", "-c", EAT, str(engine_pid(stack, VICTIM)))
    stack.engine.docker(*eating)


def worker_dies(stack: RunningStack) -> None:
    stack.inside(VICTIM, "sh", "-c", f"kill -9 {worker_pid(stack, VICTIM)}")


def engine_dies(stack: RunningStack) -> None:
    stack.inside(VICTIM, "sh", "-c", f"kill -9 {engine_pid(stack, VICTIM)}")


def engine_hangs(stack: RunningStack) -> None:
    stack.inside(VICTIM, "sh", "-c", f"kill -STOP {engine_pid(stack, VICTIM)}")


FAULTS = {
    "kill": Fault("container killed (`docker compose kill`)", "hand: `docker compose up -d`", Bounds(5, 3, 30), kill, start),
    "pause": Fault("container paused: accepts, never answers", "hand: `docker compose unpause`", Bounds(12, 8, 20), pause, unpause,
                   resumes=True),
    "unplugged": Fault("taken off its network", "hand: `docker network connect`", Bounds(12, 8, 20), unplug, plug, resumes=True),
    "memory": Fault("memory limit met, the kernel kills the engine", "the worker", Bounds(8, 15, 40), out_of_memory),
    "worker dies": Fault("worker process dies (kill -9 inside)", "docker's restart policy", Bounds(5, 3, 40), worker_dies),
    "engine dies": Fault("engine process dies (kill -9 inside)", "the worker", Bounds(5, 3, 30), engine_dies),
    "engine hangs": Fault("engine hangs (SIGSTOP inside)", "the worker", Bounds(45, 75, 110), engine_hangs),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_replica_breaks_and_comes_back(replicas: RunningStack, fault_rows: list[Row], name: str) -> None:
    restarts = replicas.inspect(VICTIM)["RestartCount"]
    row = measure(replicas, FAULTS[name])
    print(row.text())
    fault_rows.append(row)
    if name in ("kill", "pause", "unplugged", "memory", "worker dies", "engine dies"):
        assert row.failed == 0, "the other replica was there: a request that had not begun to be answered had to go on there"
    if name == "worker dies":
        assert replicas.inspect(VICTIM)["RestartCount"] == restarts + 1
    if name in ("memory", "engine dies", "engine hangs"):
        assert replicas.inspect(VICTIM)["RestartCount"] == restarts, "the worker mends its engine; the container stays"


def test_the_gateway_is_restarted(replicas: RunningStack, fault_rows: list[Row]) -> None:
    """Streams may end within the grace of 10 s; new requests are refused until the new one listens; workers notice nothing."""
    bounds = Bounds(30, 15, 30)
    pids = {placement: engine_pid(replicas, placement) for placement in (VICTIM, OTHER)}
    streams = streams_on_each(replicas.url, LLM, {VICTIM, OTHER})
    with SteadyClient(replicas.url, LLM).asking() as client:
        time.sleep(0.5)
        hit = time.monotonic()
        replicas.compose("restart", "gateway")
        replicas.wait_all_ready(bounds.back_s)
        back_s = time.monotonic() - hit
        time.sleep(0.5)
    endings = {stream.wait(60) for stream in streams.values()}
    assert all(ending == "done" or ending.startswith("error ") for ending in endings), endings
    during = [one for one in client.seen if one.ended_s >= hit]
    slowest_s = max(one.took_s for one in during)
    assert {one.status for one in during} <= {200, 0, 503}, {(one.status, one.code) for one in client.failed}
    assert (slowest_s < bounds.slowest_s, back_s < bounds.back_s) == (True, True), (slowest_s, back_s)
    assert healed(replicas)
    assert {placement: engine_pid(replicas, placement) for placement in (VICTIM, OTHER)} == pids
    failed = sum(one.status != 200 for one in during)
    fault_rows.append(Row("gateway restarted", " / ".join(sorted(endings)), failed, len(during), slowest_s, None, back_s, "docker", bounds))
