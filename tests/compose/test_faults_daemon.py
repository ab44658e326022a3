"""The docker daemon dies: kill -9, and started again. On an engine of the test's own, in a network of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compose.engine import ROOT, SCRIPT, Engine, Images
from tests.compose.faults import OTHER, VICTIM, healed
from tests.compose.faults_page import Bounds, Row
from tests.compose.network_namespace import network_namespace
from tests.compose.rigs import LLM, two_replicas, write
from tests.compose.running_stack import RunningStack, generate, up
from tests.compose.steady_client import SteadyClient, streams_on_each

pytestmark = pytest.mark.compose
DOWN_S = 2.0  # how long nobody notices that the daemon is dead


@contextmanager
def own_engine() -> Iterator[Path]:
    """The folder of a second engine. Everything in this block, and what it starts, is on that engine's network."""
    folder = Path(tempfile.mkdtemp(prefix="rst-engine-"))
    with network_namespace():
        try:
            script("start", folder)
            yield folder
        finally:
            script("stop", folder, "--purge")
            shutil.rmtree(folder, ignore_errors=True)


def script(command: str, folder: Path, *more: str) -> None:
    done = subprocess.run([str(SCRIPT), command, str(folder), *more], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def copy_images(source: Engine, target: Engine, *names: str) -> None:
    with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE, env=source.environment) as saving:
        subprocess.run(["docker", "load", "-q"], stdin=saving.stdout, env=target.environment, check=True, capture_output=True, timeout=300)
    assert saving.returncode == 0


def fetched(folder: Path) -> Path:
    """A weights folder as `rigserve fetch` leaves it; the second engine has no way out."""
    plan = write(two_replicas(), folder / "plan.yaml")
    cache = folder / "weights"
    subprocess.run([sys.executable, "-m", "services.cli.main", "fetch", "--plan", str(plan), "--weights-only"], check=True, cwd=ROOT,
                   capture_output=True, timeout=300, env={**os.environ, "RIGSERVE_CACHE": str(cache)})  # fmt: skip
    for path in (cache, *cache.rglob("*")):
        path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o444))
    return cache


@pytest.fixture(scope="module")
def stack(docker_engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    if os.geteuid():
        pytest.skip("a second engine takes root")
    names = [images.reference("gateway"), images.reference("llamacpp-cpu")]
    folder = tmp_path_factory.mktemp("daemon")
    weights = fetched(folder)
    with own_engine() as place:
        engine = Engine(f"unix://{place / 'docker.sock'}")
        copy_images(docker_engine, engine, *names)
        with up(generate(engine, folder / "two", two_replicas(), "--drain-s", "5", "--weights", str(weights))) as running:
            yield running


def engine_folder(stack: RunningStack) -> Path:
    return Path(stack.engine.host.removeprefix("unix://")).parent


def test_the_daemon_is_killed_and_started_again(stack: RunningStack, fault_rows: list[Row]) -> None:
    bounds = Bounds(60, 0, 90)
    before = stack.services()
    folder = engine_folder(stack)
    streams = streams_on_each(stack.url, LLM, {VICTIM, OTHER})
    with SteadyClient(stack.url, LLM).asking() as client:
        time.sleep(0.5)
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        hit = time.monotonic()
        time.sleep(DOWN_S)
        script("start", folder)
        stack.wait_for("a request is answered again", lambda: any(
            one.status == 200 and one.began_s > hit + DOWN_S for one in client.seen), bounds.back_s)  # fmt: skip
        stack.wait_all_ready(bounds.back_s)
        back_s = time.monotonic() - hit - DOWN_S
    endings = sorted({stream.wait(60).split()[0] for stream in streams.values()})
    assert set(endings) <= {"cut", "error", "done"}
    during = [one for one in client.seen if one.ended_s >= hit]
    assert {one.status for one in during} <= {0, 200, 502, 503, 504}
    assert back_s < bounds.back_s
    assert stack.services() == before, "every container is back by docker's restart policy, without a command"
    assert healed(stack)
    failed = sum(one.status != 200 for one in during)
    row = Row(f"docker daemon killed with -9, started again {DOWN_S:g} s later", " / ".join(endings), failed, len(during),
              max(one.took_s for one in during), None, back_s, "docker's restart policy", bounds)  # fmt: skip
    print(row.text())
    fault_rows.append(row)
