"""Models on demand, live: a gateway, real workers, fake engines; two models on a card that holds one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from services.gateway.keep_alive import keep_alive_s
from services.sizing.planfile import dump_plan
from services.sizing.types import Placement, Speed
from services.wire.errors import InvalidValue
from tests.fakes.process import PROJECT
from tests.gateway.rig import CHAT, GatewayProcess, chat, start_gateway, until
from tests.worker.running import free_port, stand_in
from tests.worker.sample import CPU, GIB, TOKEN, placement, plan

CARD = replace(CPU, total_bytes=2 * GIB)  # a bill is 1.19 GiB
NAMES = ("one", "two")


@dataclass
class Swapping:
    """A gateway in front of two workers."""

    folder: Path
    workers: list[subprocess.Popen[bytes]]
    gateway: GatewayProcess

    def states(self) -> dict[str, str]:
        return {ident: backend["state"] for ident, backend in self.gateway.backends().items()}

    def orders(self) -> list[str]:
        """What workers were told, in order."""
        lines = [json.loads(line) for line in self.gateway.log.read_text().splitlines() if line.startswith("{")]
        return [f"{line['order']} {line['backend']}" for line in lines if line["event"] == "order"]

    def again(self, *flags: str) -> None:
        """Another gateway, with other flags, over the same workers."""
        self.gateway.stop()
        self.gateway = start_gateway(self.folder, *self._files(), *flags)
        until(lambda: set(self.states().values()) <= {"unloaded", "ready"}, "workers are seen", 10)

    def _files(self) -> tuple[str, ...]:
        return "--plan", str(self.folder / "plan.yaml"), "--endpoints", str(self.folder / "endpoints.json")

    def stop(self) -> None:
        self.gateway.stop()
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(20)


def on_demand(name: str) -> Placement:
    made = placement(CARD, model_id=name, ident=name)
    return replace(made, report=replace(made.report, speed=Speed(load_s=3.0)), on_demand=True)


@pytest.fixture
def swapping(tmp_path: Path) -> Iterator[Swapping]:
    placements = [on_demand(name) for name in NAMES]
    (tmp_path / "plan.yaml").write_text(dump_plan(plan(CARD, *placements)))
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "good.gguf").write_bytes(b"GGUF")
    endpoints, workers = [], []
    for name in NAMES:
        port, engine_port = free_port(), free_port()
        endpoints.append({"placement_id": name, "worker_url": f"http://127.0.0.1:{port}", "engine_url": f"http://127.0.0.1:{engine_port}",
                          "token_file": str(tmp_path / "token")})
        argv = [sys.executable, "-m", "services.worker", "--plan", str(tmp_path / "plan.yaml"), "--placement", name, "--port", str(port),
                "--engine-port", str(engine_port), "--token-file", str(tmp_path / "token"), "--weights", str(tmp_path / "good.gguf"),
                "--engine-binary", str(stand_in(tmp_path)), "--log-file", str(tmp_path / f"{name}.log"),
                "--state-dir", str(tmp_path / name), "--calibration", str(tmp_path / "calibration.db")]
        with (tmp_path / f"{name}.err").open("wb") as err:
            workers.append(subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=err))
    (tmp_path / "endpoints.json").write_text(json.dumps({"endpoints": endpoints}))
    gateway = start_gateway(tmp_path, "--plan", str(tmp_path / "plan.yaml"), "--endpoints", str(tmp_path / "endpoints.json"))
    made = Swapping(tmp_path, workers, gateway)
    try:
        until(lambda: made.states() == {"one": "unloaded", "two": "unloaded"}, "workers are up", 20)
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_requests_load_what_they_need(swapping: Swapping) -> None:
    gateway = swapping.gateway
    assert gateway.http.get("/readyz").status_code == 200, "a model that is loaded when asked for can be asked for"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gateway.post(CHAT, chat("one")).status_code, range(8)))
    assert answers == [200] * 8
    assert swapping.orders() == ["load one"], "eight requests, one load"
    assert swapping.states() == {"one": "ready", "two": "unloaded"}
    begun = time.monotonic()
    answer = gateway.post(CHAT, chat("two"))
    assert (answer.status_code, answer.headers["x-rigserve-backend"]) == (200, "two")
    assert time.monotonic() - begun > 2, "one has its least stay"
    assert swapping.orders() == ["load one", "unload one", "load two"]
    assert swapping.states() == {"one": "unloaded", "two": "ready"}
    with gateway.http.stream("POST", CHAT, json=chat("one", stream=True, max_tokens=3)) as streamed:
        text = streamed.read().decode()
    assert text.startswith(": the model is loading\n\n"), "the client was kept while two had its least stay"
    assert text.rstrip().endswith("data: [DONE]")
    answer = gateway.post(CHAT, chat("one", keep_alive="200ms"))
    assert answer.status_code == 200
    assert "x-rigserve-dropped-fields" not in answer.headers
    assert "keep_alive" not in json.dumps(_bodies(swapping, "one"))
    until(lambda: swapping.states()["one"] == "unloaded", "its keep-alive is over", 10)
    error = gateway.error(CHAT, chat("one", keep_alive="soon"), 400)
    assert error["param"] == "keep_alive"


def _bodies(swapping: Swapping, name: str) -> Any:
    return (swapping.folder / f"{name}.log").read_text()


@pytest.mark.slow
def test_a_load_that_takes_longer_than_a_request_waits(swapping: Swapping) -> None:
    swapping.again("--deadline-queue-s", "1")
    answer = swapping.gateway.post(CHAT, chat("one"))
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "backend_starting", "3")
    until(lambda: swapping.states()["one"] == "ready", "the refused request has started the load", 15)
    assert swapping.gateway.post(CHAT, chat("one")).status_code == 200
    assert swapping.orders() == ["load one"]


@pytest.mark.slow
def test_orders_of_the_operator(swapping: Swapping) -> None:
    gateway = swapping.gateway
    told = gateway.post("/admin/models/pin", {"model": "two"})
    assert (told.status_code, told.json()["state"]) == (202, "unloaded")
    until(lambda: swapping.states()["two"] == "ready", "what is pinned is loaded", 15)
    assert gateway.backends()["two"]["pinned"]
    assert "no room beside" in gateway.error("/admin/models/pin", {"model": "one"}, 400)["message"]
    waiting = threading.Thread(target=gateway.post, args=(CHAT, chat("one")), kwargs={"timeout": 20})
    waiting.start()
    time.sleep(6)
    assert swapping.states() == {"one": "unloaded", "two": "ready"}, "nobody takes the room of what is pinned"
    assert gateway.post("/admin/models/unload", {"model": "two"}).status_code == 202
    until(lambda: swapping.states() == {"one": "ready", "two": "unloaded"}, "one comes in its place", 15)
    waiting.join(10)
    assert gateway.post("/admin/models/load", {"model": "two"}).status_code == 202
    until(lambda: swapping.states()["two"] == "ready", "loaded before anybody asks", 20)
    gateway.error("/admin/models/eat", {"model": "two"}, 404)
    gateway.error("/admin/models/load", {"model": "three"}, 404)
    gateway.error("/admin/models/load", {}, 400)


@pytest.mark.parametrize(("value", "seconds"), [
    (0, 0.0), (-1, None), ("-1", None), (300, 300.0), ("300", 300.0), ("5m", 300.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("500ms", 0.5),
    ("-5m", None),
])
def test_keep_alive(value: Any, seconds: float | None) -> None:
    assert keep_alive_s(value) == seconds


@pytest.mark.parametrize("value", [True, "", "m", "5 m", "5d", [], {}, 1e300, float("nan"), "999999999h", "5m" * 40])
def test_keep_alive_that_is_none(value: Any) -> None:
    with pytest.raises(InvalidValue, match="keep_alive must be"):
        keep_alive_s(value)
