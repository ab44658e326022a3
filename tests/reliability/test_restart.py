"""R4: restarts, another configuration, clocks and logs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.sizing.planfile import dump_plan
from services.sizing.types import Plan
from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, chat, rig_plan, start_gateway, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Streamed, scrape, way_flags

pytestmark = pytest.mark.reliability
LONG = {"max_tokens": 100_000}


@pytest.fixture
def lone(fake_engine: Callable[..., FakeEngineProcess], tmp_path: Path, way: str) -> Iterator[tuple[GatewayProcess, FakeEngineProcess]]:
    """A gateway that a test may end, over one engine."""
    engine = fake_engine("solo", itl_s=0.02, context=10**6)
    gateway = start_gateway(tmp_path, f"--backend=solo={engine.url}", "--drain-grace-s=1", "--limit-backend-slots=64", *way_flags(way))
    gateway.wait_ready()
    yield gateway, engine
    gateway.stop()


def background(pool: ThreadPoolExecutor, gateway: GatewayProcess, tokens: list[int]) -> list[Any]:
    return [pool.submit(Streamed, gateway, chat(max_tokens=count)) for count in tokens]


@contextmanager
def killed_if_it_fails(gateway: GatewayProcess) -> Iterator[None]:
    """Else a test that fails would wait for streams without an end."""
    try:
        yield
    except BaseException:
        gateway.process.kill()
        raise


@scenario(38)
def test_sigterm_with_50_streams(lone: tuple[GatewayProcess, FakeEngineProcess], seen: Seen) -> None:
    gateway, engine = lone
    with ThreadPoolExecutor(50) as pool, killed_if_it_fails(gateway):
        endless = background(pool, gateway, [100_000] * 25)
        until(lambda: engine.state()["running"] == 25, "25 streams run", 15)
        short = background(pool, gateway, [20] * 25)
        until(lambda: engine.state()["running"] + engine.state()["served"] >= 50, "50 streams run, or have ended already", 15)
        gateway.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        until(lambda: gateway.http.get("/readyz").status_code == 503, "not ready", 1)
        refused = gateway.post(CHAT, chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_available_worker")
        metric = scrape(gateway).sum("rigserve_requests_total", ending="refused", code="no_available_worker")
        ended = [stream.result() for stream in (*short, *endless)]
    assert gateway.process.wait(5) == 0
    took_s = time.monotonic() - start
    assert took_s < 1 + 1 + 3, "grace, last words, uvicorn's own end"
    assert all(stream.whole and stream.done for stream in ended[:25])
    assert all(not stream.done and stream.error and stream.error["code"] == "no_available_worker" for stream in ended[25:])
    assert metric == 1
    until(lambda: engine.state()["running"] == 0, "the engine's work has ended")
    with pytest.raises(httpx.ConnectError):
        httpx.post(gateway.url + CHAT, json=chat())
    seen(new="503 no_available_worker", streams="25 whole, 25 with an error event", exit="0, within the grace",
         metric="requests{ending=refused} +1", seats="engine idle")


@scenario(39)
def test_sigkill_of_the_gateway(lone: tuple[GatewayProcess, FakeEngineProcess], tmp_path: Path, way: str, seen: Seen) -> None:
    gateway, engine = lone
    with ThreadPoolExecutor(10) as pool, killed_if_it_fails(gateway):
        streams = background(pool, gateway, [100_000] * 10)
        until(lambda: engine.state()["running"] == 10, "10 streams run", 15)
        gateway.process.kill()
        assert all(not stream.result().whole for stream in streams)
    until(lambda: engine.state()["running"] == 0, "the engine has stopped them", 2)
    again = start_gateway(tmp_path, f"--backend=solo={engine.url}", *way_flags(way))
    try:
        again.wait_ready()
        metrics = scrape(again)
        assert metrics.sum("rigserve_requests_total") == 0
        assert metrics.sum("rigserve_requests_running") == again.seats() == 0
        assert again.post(CHAT, chat(max_tokens=2)).status_code == 200
        assert scrape(again).sum("rigserve_requests_total", ending="served") == 1
    finally:
        again.stop()
    seen(engine="all 10 aborted within 2 s", after="starts at once, counters from 0, serves", metric="requests{ending=served} 1", seats=0)


@scenario(40)
def test_a_worker_restarts_under_load(fake_engine: Callable[..., FakeEngineProcess], tmp_path: Path, way: str, seen: Seen) -> None:
    """It says that it drains, ends its streams, goes, and comes back at the same address; the twin takes the rest."""
    rig = Reloadable(tmp_path, fake_engine, way, ["one", "two"])
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=rig.gateway.url, timeout=10) as client:
            while not stop.is_set():
                statuses.append(client.post(CHAT, json=chat(MODEL, max_tokens=3)).status_code)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.5)
        leaving = rig.engines["one"]
        leaving.set(worker_state="draining")
        until(lambda: rig.gateway.backends()["one"]["state"] == "draining", "the gateway knows")
        until(lambda: leaving.state()["running"] == 0, "its requests have ended")
        leaving.stop()
        time.sleep(0.5)
        rig.start_engine("one", fake_engine, leaving.port)
        rig.gateway.wait_ready("one")
        until(lambda: rig.engines["one"].state()["served"] > 0, "it serves again")
        stop.set()
        for one in asking:
            one.result()
    assert set(statuses) == {200}
    assert len(statuses) > 50
    assert scrape(rig.gateway).sum("rigserve_requests_total", ending="failed") == 0
    until(lambda: rig.gateway.seats() == 0, "all seats back to 0")
    seen(status="200 for all", metric="requests{ending=failed} 0", seats=0)
    rig.gateway.stop()


# --- 41: another configuration ---

MODEL = "smollm2-135m-instruct"


class Reloadable:
    """A gateway over a plan file that may be written anew. Placements are copies of one text placement, each an engine of its own."""

    def __init__(self, folder: Path, fake_engine: Callable[..., FakeEngineProcess], way: str, idents: list[str]) -> None:
        self.folder = folder
        self.engines: dict[str, FakeEngineProcess] = {}
        self.fake_engine = fake_engine
        self.write(idents)
        self.gateway = start_gateway(folder, f"--plan={folder}/plan.yaml", f"--endpoints={folder}/endpoints.json", "--drain-grace-s=1",
                                     *way_flags(way))  # fmt: skip
        self.gateway.wait_ready()

    def start_engine(self, ident: str, fake_engine: Callable[..., FakeEngineProcess], port: int = 0) -> None:
        self.engines[ident] = fake_engine(MODEL, placement=ident, card=rig_plan().cards[0].id, context=512, itl_s=0.02, port=port)

    def write(self, idents: list[str], context_tokens: dict[str, int] | None = None) -> None:
        """A plan with these placements, and where they are."""
        plan = rig_plan()
        first = plan.placements[0]
        placements = []
        for ident in idents:
            if ident not in self.engines:
                self.start_engine(ident, self.fake_engine)
            placements.append(replace(first, id=ident))
        text = dump_plan(Plan(plan.version, plan.host, plan.cards, tuple(placements)))
        (self.folder / "plan.yaml").write_text(text)
        urls = {ident: self.engines[ident].url for ident in idents}
        listed = [{"placement_id": i, "worker_url": url, "engine_url": url, "token_file": None} for i, url in urls.items()]
        (self.folder / "endpoints.json").write_text(json.dumps({"endpoints": listed}))

    def reload(self) -> dict[str, Any]:
        """The log line of what came of it."""
        before = len(self._lines())
        self.gateway.process.send_signal(signal.SIGHUP)
        until(lambda: len(self._lines()) > before, "the configuration is read again", 5)
        line: dict[str, Any] = self._lines()[-1]
        return line

    def _lines(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.gateway.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] in ("reloaded", "reload_refused")]


@pytest.fixture
def reloadable(fake_engine: Callable[..., FakeEngineProcess], tmp_path: Path, way: str) -> Iterator[Reloadable]:
    rig = Reloadable(tmp_path, fake_engine, way, ["one"])
    yield rig
    until(lambda: rig.gateway.seats() == 0, "all seats back to 0")
    assert scrape(rig.gateway).sum("rigserve_requests_running") == 0
    assert rig.gateway.stop() == 0


@scenario(41)
def test_a_backend_comes_and_goes_under_streams(reloadable: Reloadable, seen: Seen) -> None:
    rig = reloadable
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(Streamed, rig.gateway, chat(MODEL, max_tokens=120))
        until(lambda: rig.engines["one"].state()["running"] == 1, "a stream runs")
        rig.write(["one", "two"])
        line = rig.reload()
        assert (line["kept"], line["added"], line["removed"]) == (["one"], ["two"], [])
        rig.gateway.wait_ready("two")
        assert rig.gateway.backends()["one"]["in_flight"] == 1, "what is kept keeps its seats"
        rig.write(["two"])
        line = rig.reload()
        assert (line["kept"], line["added"], line["removed"]) == (["two"], [], ["one"])
        assert set(rig.gateway.backends()) == {"two"}
        assert rig.engines["one"].state()["running"] == 1, "its stream goes on"
        for _ in range(5):
            assert rig.gateway.post(CHAT, chat(MODEL, max_tokens=2)).headers["x-rigserve-backend"] == "two"
        rig.write(["one", "two"])
        rig.reload()
        ended = stream.result()
        assert (ended.whole, ended.done, len(ended.words)) == (True, True, 120)
    rig.gateway.wait_ready("one")
    asked = rig.engines["one"].state()["served"]
    until(lambda: rig.gateway.post(CHAT, chat(MODEL, max_tokens=1)).status_code == 200 and rig.engines["one"].state()["served"] > asked,
          "it is used again", 5)  # fmt: skip
    metrics = scrape(rig.gateway)
    assert metrics.sum("rigserve_config_reloads_total", result="done") == 3
    assert metrics.sum("rigserve_requests_total", ending="failed") == 0
    seen(streams="whole, through three reloads, also on a backend that is gone", metric="config_reloads{result=done} +3", seats=0)


@scenario(41)
def test_a_model_goes(reloadable: Reloadable, seen: Seen) -> None:
    """Its stream ends whole, who asks for it gets 404; who waits for it is told at once."""
    rig = reloadable
    with ThreadPoolExecutor(8) as pool:
        slots = rig.gateway.backends()["one"]["slots"]
        streams = [pool.submit(Streamed, rig.gateway, chat(MODEL, max_tokens=80)) for _ in range(slots)]
        until(lambda: rig.engines["one"].state()["running"] == slots, "streams run")
        waits = pool.submit(rig.gateway.post, CHAT, chat(MODEL, max_tokens=1))
        until(lambda: rig.gateway.seats() == slots + 1, "one waits")
        (rig.folder / "plan.yaml").write_text(dump_plan(Plan(1, rig_plan().host, rig_plan().cards, ())))
        (rig.folder / "endpoints.json").write_text('{"endpoints": []}')
        assert rig.reload()["removed"] == ["one"]
        answer = waits.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_available_worker")
        gone = rig.gateway.post(CHAT, chat(MODEL))
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
        assert all(stream.result().done for stream in streams)
        rig.write(["one"])
        rig.reload()
        rig.gateway.wait_ready("one")
        assert rig.gateway.post(CHAT, chat(MODEL, max_tokens=1)).status_code == 200
    seen(gone="404 model_not_found; who waited: 503; streams whole")


@scenario(41)
@pytest.mark.parametrize(("name", "text", "said"), [
    ("plan.yaml", "version: 1\nhost: [\n", "line 3"), ("plan.yaml", "version: 1\nhost: x\n", "host"),
    ("plan.yaml", "", "holds no plan"),
    ("endpoints.json", '{"endpoints": [\n  {"placement_id": "one",}\n]}', "line 2"),
    ("endpoints.json", '{"endpoints": []}', "no endpoint for one"),
    ("plan.yaml", None, "can't be read"),
])  # fmt: skip
def test_a_bad_file(reloadable: Reloadable, seen: Seen, name: str, text: str | None, said: str) -> None:
    rig = reloadable
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(Streamed, rig.gateway, chat(MODEL, max_tokens=40))
        until(lambda: rig.engines["one"].state()["running"] == 1, "a stream runs")
        if text is None:
            (rig.folder / name).unlink()
        else:
            (rig.folder / name).write_text(text)
        line = rig.reload()
        assert line["event"] == "reload_refused"
        assert said in line["error"]
        assert name in line["error"]
        assert stream.result().done
    assert rig.gateway.post(CHAT, chat(MODEL, max_tokens=1)).status_code == 200, "the old one stays"
    assert scrape(rig.gateway).sum("rigserve_config_reloads_total", result="refused") == 1
    seen(bad_file="refused with its place in the log, the old configuration stays", counted="config_reloads{result=refused} +1")
