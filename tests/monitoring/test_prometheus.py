"""Debian's Prometheus with the files as shipped, over a live gateway with fake engines. `apt-get install prometheus` brings it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import process
from tests.gateway.rig import CHAT, Rig, chat, start_rig, until
from tests.monitoring.shipped import MONITORING, RULES, panel_queries
from tests.worker.running import free_port

pytestmark = [pytest.mark.compose, pytest.mark.timeout(180)]
SMOL = "smollm2-135m-instruct"


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        said = "prometheus is not installed: apt-get install --no-install-recommends prometheus"
        if os.environ.get("RIGSERVE_REQUIRE_DOCKER"):
            pytest.fail(said)
        pytest.skip(said)


@dataclass
class Prometheus:
    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str, **params: Any) -> Any:
        answer = self.http.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return found

    def firing(self) -> dict[str, dict[str, str]]:
        return {one["labels"]["alertname"]: one["labels"] for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}


def shipped_but_faster(folder: Path, target: str, own: int) -> Path:
    """The shipped files with the target's address and short times in the place of theirs; nothing else is changed."""
    config = (MONITORING / "prometheus.yml").read_text()
    for old, new in (("gateway:8000", target), ("localhost:9090", f"127.0.0.1:{own}"), ("interval: 15s", "interval: 250ms")):
        assert old in config
        config = config.replace(old, new)
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text(re.sub(r"for: \d+m", "for: 1s", (MONITORING / "alerts.yml").read_text()))
    return folder / "prometheus.yml"


@dataclass
class Watched:
    rig: Rig
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A rig of fake engines, a pair of backends of which one fails, and Prometheus over their gateway."""
    folder = tmp_path_factory.mktemp("watched")
    twins = [process.start("twin"), process.start("twin")]
    rig = start_rig(folder, *(f"--backend=twin={twin.url}" for twin in twins))
    rig.gateway.wait_ready()
    own = free_port()
    config = shipped_but_faster(folder, rig.gateway.url.removeprefix("http://"), own)
    log = folder / "prometheus.log"
    with log.open("wb") as out:
        child = subprocess.Popen(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                                  f"--web.listen-address=127.0.0.1:{own}"], stdout=out, stderr=subprocess.STDOUT)
    http = httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=10)
    try:
        prometheus = Prometheus(http, child, log)
        until(lambda: up(prometheus, child) == 1, "the gateway is scraped", 30)
        twins[0].fault("error_500")
        traffic(rig)
        yield Watched(rig, prometheus)
    finally:
        http.close()
        child.send_signal(signal.SIGTERM)
        child.wait(20)
        for engine in twins:
            engine.stop()
        rig.stop()


def up(prometheus: Prometheus, child: subprocess.Popen[bytes]) -> float | None:
    assert child.poll() is None, prometheus.log.read_text()[-2000:]
    with suppress(httpx.TransportError, ValueError, AssertionError):
        found = prometheus.query('up{job="rigserve"}')
        return float(found[0]["value"][1]) if found else None
    return None


def traffic(rig: Rig) -> None:
    """A little of everything that can happen to a request."""
    gateway = rig.gateway
    for _ in range(2):
        assert gateway.post(CHAT, chat(SMOL, stream=True, max_tokens=4)).status_code == 200
        assert gateway.post("/v1/images/generations", {"model": "digits-sd", "prompt": "7", "size": "32x32"}).status_code == 200
        assert {gateway.post(CHAT, chat("twin", max_tokens=2)).status_code for _ in range(4)} == {200}  # some of them at a second try
        assert gateway.post(CHAT, chat("nobody")).status_code == 404
        assert gateway.post(CHAT, chat("qwen2.5-32b-instruct")).status_code == 422
    rig.engines["llm-vllm"].set(itl_s=0.05)
    with gateway.http.stream("POST", CHAT, json=chat(SMOL, stream=True, max_tokens=100)) as answer:
        next(answer.iter_lines())  # and leaves
    until(lambda: gateway.seats() == 0, "the engine is told")
    rig.engines["llm-vllm"].reset()
    time.sleep(1)  # two more scrapes, for the rates


def test_promtool_takes_the_files(tmp_path: Path) -> None:
    for argv in (["check", "rules", str(MONITORING / "alerts.yml")], ["check", "config", str(MONITORING / "prometheus.yml")]):
        done = subprocess.run(["promtool", *argv], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_at_their_real_times() -> None:
    done = subprocess.run(["promtool", "test", "rules", str(Path(__file__).with_name("alerts_test.yml"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", Path(__file__).with_name("alerts_test.yml").read_text()))
    assert tested == {rule["alert"] for rule in RULES}


def test_every_panel_gets_data(watched: Watched) -> None:
    """Each query runs, and after a little of everything none is empty."""
    empty = {title for title, expr in panel_queries() if not watched.prometheus.query(expr)}
    # A simulated card has no driver to read, and nobody was refused, reloaded or silenced here: those queries only have to run.
    quiet = {"Refused at the edge", "Configuration and log"}
    assert {title for title in empty - quiet if not title.startswith("Cards: ")} == set()


def test_every_alert_expression_runs(watched: Watched) -> None:
    for rule in RULES:
        watched.prometheus.query(rule["expr"])
    rules = [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in RULES}


def test_the_variables_of_the_dashboard(watched: Watched) -> None:
    for label, wanted in (("model", {SMOL, "digits-sd", "twin", "qwen2.5-0.5b-instruct"}), ("card", {"sim-0"})):
        assert set(watched.prometheus.ask(f"label/{label}/values", **{"match[]": "rigserve_backend_ready"})) >= wanted


def soon(test: Callable[[], bool], what: str) -> None:
    until(test, what, 20)


def test_a_killed_engine_is_an_alert_and_its_return_ends_it(watched: Watched) -> None:
    prometheus, rig = watched.prometheus, watched.rig
    assert not {"WorkerDown", "ModelUnavailable", "GatewayDown"} & set(prometheus.firing())
    engine = rig.engines["digits"]
    engine.kill()
    engine.stop()  # closes its pipe
    soon(lambda: {"WorkerDown", "ModelUnavailable"} <= set(prometheus.firing()), "alerts fire")
    assert prometheus.firing()["WorkerDown"]["backend"] == "digits"
    assert prometheus.firing()["WorkerDown"]["state"] == "unreachable"
    assert prometheus.firing()["ModelUnavailable"]["model"] == "digits-sd"
    folder = rig.gateway.log.parent
    rig.engines["digits"] = process.start("digits-sd", flavour="diffusers", token_file=folder / "digits.token", placement="digits",
                                          card="sim-0", port=engine.port)
    soon(lambda: not {"WorkerDown", "ModelUnavailable"} & set(prometheus.firing()), "alerts end")


def test_a_gateway_that_is_gone_is_an_alert(watched: Watched) -> None:
    """Last: nothing works after it."""
    watched.rig.gateway.stop()
    soon(lambda: "GatewayDown" in watched.prometheus.firing(), "GatewayDown fires")
