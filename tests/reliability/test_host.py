"""R4: what the host does to a gateway: clocks, logs, downloads, scrapes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.provision import weights
from services.provision.errors import DamagedError, NoSpaceError, UnreachableError
from services.provision.progress import silent
from tests.fakes.hub import HubStandIn
from tests.fakes.process import PROJECT, FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, chat, few_models, resident_kib, start_gateway, until
from tests.provision.conftest import NO_PATIENCE, cache, hub, model, safetensors_bytes, variant  # noqa: F401
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Streamed, scrape, way_flags

pytestmark = pytest.mark.reliability

JUMPY = """
import os, time
_true = time.time
def jumped():
    try:
        return _true() + float(open(os.environ["JUMP_FILE"]).read())
    except (OSError, ValueError):
        return _true()
time.time = jumped
"""


@scenario(45)
@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_the_wall_clock_jumps(
    fake_engine: Callable[..., FakeEngineProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, jump_s: int, seen: Seen
) -> None:
    """time.time() of the gateway's process is what jumps; datetime.now(), read in C, only stamps the lines of events."""
    (tmp_path / "sitecustomize.py").write_text(JUMPY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("JUMP_FILE", str(tmp_path / "jump"))
    engine = fake_engine("solo", itl_s=0.02)
    gateway = start_gateway(tmp_path, f"--backend=solo={engine.url}", "--deadline-inter-token-s=0.5", "--limit-backend-slots=2",
                            "--deadline-queue-s=0.5", *way_flags(way))  # fmt: skip
    try:
        gateway.wait_ready()
        with ThreadPoolExecutor(2) as pool:
            stream = pool.submit(Streamed, gateway, chat(max_tokens=80))
            until(lambda: engine.state()["running"] == 1, "a stream runs")
            (tmp_path / "jump").write_text(str(jump_s))
            assert gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
            assert stream.result().done, "no deadline was met by the jump"
        engine.fault("stall", after_tokens=2, times=1)
        start = time.monotonic()
        stalled = Streamed(gateway, chat())
        assert stalled.error is not None
        assert 0.4 < time.monotonic() - start < 2, "and none is put off by it"
        until(lambda: gateway.seats() == 0, "all seats back to 0")
        for window in ("10s", "1m", "1h"):
            told = gateway.http.get(f"/v1/throughput?window={window}").json()
            totals = told["totals"]
            assert 0 < told["covered_s"] < 60
            assert 0 < totals["output_tokens_per_s"] < 1000
            assert totals["ttft_s"]["p95"] < 5
        metrics = scrape(gateway)
        assert metrics.sum("rigserve_requests_total") == 3
        assert 0 < metrics.sum("gen_ai_server_request_duration_seconds_sum") < 20
        line = gateway.last_request()
        stamp = time.mktime(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        assert abs(stamp - time.time() - jump_s) < 60, "only the stamps of the log follow the wall"
    finally:
        gateway.stop()
    seen(deadlines="unaffected, forth and back", windows="sane", metric="durations positive", seats=0)


def unheard(tmp_path: Path, engine: FakeEngineProcess, stderr: Any, way: str) -> GatewayProcess:
    """A gateway whose log goes there."""
    argv = [sys.executable, "-m", "services.gateway", "--port=0", "--poll-s=0.1", f"--models-dir={few_models(tmp_path)}",
            f"--backend=solo={engine.url}", *way_flags(way)]  # fmt: skip
    child = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert child.stdout is not None
    gateway = GatewayProcess(child, child.stdout.readline().split()[-1], tmp_path / "none.log")
    gateway.wait_ready()
    return gateway


@pytest.fixture(params=["a full volume", "a pipe that nobody reads", "a closed pipe"])
def bad_log(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    if request.param == "a full volume":
        ends = [os.open("/dev/full", os.O_WRONLY)]
    else:
        reading, writing = os.pipe()
        ends = [writing, reading]
        if request.param == "a closed pipe":
            os.close(ends.pop())
    yield request.param, ends[0]
    for end in ends:
        os.close(end)


@scenario(46)
def test_nobody_takes_the_log(
    fake_engine: Callable[..., FakeEngineProcess], tmp_path: Path, way: str, bad_log: tuple[str, int], seen: Seen
) -> None:
    """The pipe holds 64 KiB, 200 lines or so; many more come, with a header that makes each of them longer."""
    name, end = bad_log
    gateway = unheard(tmp_path, fake_engine("solo"), end, way)
    try:
        before = resident_kib(gateway)
        ask = {"x-request-id": "x" * 128}
        slowest_s = 0.0
        for _ in range(600):
            start = time.monotonic()
            assert gateway.post(CHAT, chat(max_tokens=1), headers=ask).status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - start)
        assert slowest_s < 2
        assert resident_kib(gateway) - before < 20_000
        dropped = scrape(gateway).sum("rigserve_log_lines_dropped_total")
        if name != "a pipe that nobody reads":
            assert dropped > 300
        assert gateway.seats() == 0
    finally:
        assert gateway.stop() == 0, "and it ends in order"
    seen(status="200 for all", memory="bounded: 4 MB of lines are held, then dropped", metric="log_lines_dropped counts", seats=0)


TINY = variant(repository="some/tiny", revision="main", files=("config.json", "model.safetensors"))
BIG = safetensors_bytes(1_000_000 // 256 * 256)


@scenario(47)
@pytest.mark.parametrize(("fault", "error"), [("cut", UnreachableError), ("hash", DamagedError), ("full", NoSpaceError)])
def test_a_download_fails(
    hub: HubStandIn, cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str, error: type[Exception], seen: Seen  # noqa: F811
) -> None:
    hub.add("some/tiny", {"config.json": b"{}", "model.safetensors": BIG})
    if fault == "cut":
        hub.faults.cut_after_bytes = 300_000
    elif fault == "hash":
        hub.faults.flip_a_bit_in = ("model.safetensors",)
    with monkeypatch.context() as patched:
        if fault == "full":
            def full(*args: Any) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patched.setattr("services.provision.transfer._append", full)
        with pytest.raises(error):
            weights.ensure(model(TINY), TINY, silent, patience=NO_PATIENCE)
    assert weights.located(model(TINY), TINY) is None, "nothing half is taken for whole"
    assert not (cache / "weights/tiny/v/files/model.safetensors").exists()
    hub.faults.cut_after_bytes, hub.faults.flip_a_bit_in = None, ()
    folder = weights.ensure(model(TINY), TINY, silent, patience=NO_PATIENCE)
    assert (folder / "model.safetensors").read_bytes() == BIG
    seen(file="never at its place before it is whole and its hash right; what came of a cut one is kept apart and taken up",
         state="an error in one sentence", retry="the next run completes it")  # fmt: skip


@scenario(49)
def test_scrapes_with_500_label_sets(fake_engine: Callable[..., FakeEngineProcess], tmp_path: Path, way: str, seen: Seen) -> None:
    """250 models, chat and completions of each: 62,000 lines, and between two scrapes each has changed. The bound is on processor time,
    of five scrapes the least: this machine is shared."""
    engine = fake_engine("m")
    flags = [f"--backend=m{number}={engine.url}" for number in range(250)]
    gateway = start_gateway(tmp_path, *flags, "--poll-s=30", "--deadline-connect-s=10", *way_flags(way))
    try:
        gateway.wait_ready()
        _ask_all(gateway)
        for number in range(50):
            assert gateway.post(CHAT, chat(f"unknown-{number}")).status_code == 404
        spent = []
        for _ in range(5):
            _ask_all(gateway)
            start = process_s(gateway)
            text = gateway.http.get("/metrics").text
            spent.append(process_s(gateway) - start)
        assert text.count("\n") > 30_000
        assert min(spent) < 0.05
        assert "unknown-" not in text
        assert scrape(gateway).sum("rigserve_requests_total", model="other", code="model_not_found") == 50
        assert gateway.seats() == 0
    finally:
        gateway.stop()
    seen(scrape=f"{text.count(chr(10)) // 1000},000 lines in {min(spent) * 1000:.0f} ms of processor time",
         labels="50 unknown models are one: other", seats=0)  # fmt: skip


def _ask_all(gateway: GatewayProcess) -> None:
    for number in range(250):
        for path, more in ((CHAT, {"messages": [{"role": "user", "content": "x"}]}), ("/v1/completions", {"prompt": "x"})):
            assert gateway.post(path, {"model": f"m{number}", "max_tokens": 2, "stream": True, **more}).status_code == 200


def process_s(gateway: GatewayProcess) -> float:
    with open(f"/proc/{gateway.process.pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9
