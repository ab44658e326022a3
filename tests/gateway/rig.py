"""Gateways as processes, in front of fake engines as processes: what the tests of this room stand on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai

from services.gateway.logs import FLUSH_S
from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.catalogue import MODELS_FOLDER, Catalogue, load_model
from services.sizing.fit import fit
from services.sizing.planfile import dump_plan
from services.sizing.types import Card, Engine, Host, ImageWorkload, Placement, Plan, TextWorkload, Workload
from tests.fakes import process
from tests.fakes.process import PROJECT, FakeEngineProcess

HOST = Host(16 * 2**30, 12 * 2**30, "test", 4, ("avx2", "fma", "f16c", "bmi2", "avx512f"), "x86_64")
MESSAGES = [{"role": "user", "content": "one two three"}]  # 3 words + 4 of the fake template: 7 tokens
CHAT = "/v1/chat/completions"


def chat(model: str = "solo", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **more}


def until(check: Any, what: str, seconds: float = 3.0) -> Any:
    """The first true value of `check()`; fails when none comes in time."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@dataclass
class GatewayProcess:
    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def http(self) -> httpx.Client:
        return self._http

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=20, limits=httpx.Limits(max_connections=200))

    def sdk(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key="any", **{"max_retries": 0, **more})

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.http.post(path, content=content, **more)

    def error(self, path: str, body: Any, status: int) -> dict[str, Any]:
        """The error of a refusal, whose status and shape are checked."""
        answer = self.post(path, body)
        assert answer.status_code == status, answer.text
        error: dict[str, Any] = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert answer.headers["content-type"] == "application/json"
        return error

    def backends(self) -> dict[str, Any]:
        cards = self.http.get("/v1/cards").json()
        listed = [*cards["backends"], *(p for card in cards["data"] for p in card["placements"])]
        return {backend["id"]: backend for backend in listed}

    def seats(self) -> int:
        """Taken seats and waiting requests."""
        now = self.http.get("/v1/throughput?window=10s").json()
        return int(now["totals"]["running"] + sum(model["waiting"] for model in now["models"]))

    def wait_ready(self, *ids: str) -> None:
        def ready() -> bool:
            backends = self.backends()
            return all(backends[i]["state"] == "ready" and backends[i]["breaker"] == "closed" for i in ids or backends)

        until(ready, f"{ids} ready", 10)

    def last_request(self) -> dict[str, Any]:
        """The newest request line of the log, once all that runs has ended; {} before the first."""
        until(lambda: self.seats() == 0, "all seats back to 0")
        time.sleep(FLUSH_S + 0.03)  # lines are gathered for so long
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        found: list[dict[str, Any]] = [line for line in lines if line["event"] == "request"]
        return found[-1] if found else {}

    def stop(self) -> int:
        self._http.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        return code


def resident_kib(gateway: GatewayProcess) -> int:
    with open(f"/proc/{gateway.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def start_gateway(folder: Path, *arguments: str) -> GatewayProcess:
    log = folder / f"gateway-{time.monotonic_ns()}.log"
    argv = [sys.executable, "-m", "services.gateway", "--port", "0", "--poll-s", "0.1", "--models-dir", str(few_models(folder)), *arguments]
    with log.open("w") as stderr:
        child = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert child.stdout is not None
    line = child.stdout.readline()
    assert "rigserve gateway on" in line, log.read_text()
    return GatewayProcess(child, line.split()[-1], log)


MODELS = ("smollm2-135m-instruct", "digits-sd", "qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct", "qwen2.5-32b-instruct",
          "llama-3.2-1b-instruct", "llama-3.1-8b-instruct", "sd-1.5", "sdxl")


@cache
def catalogue() -> Catalogue:
    """A few models of the project's catalogue, which has many: reading them all takes a second."""
    return Catalogue(tuple(load_model(MODELS_FOLDER / f"{ident}.yaml") for ident in sorted(MODELS)))


def few_models(folder: Path) -> Path:
    """The same as a folder, for gateways that run as processes."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    for ident in MODELS:
        shutil.copy(MODELS_FOLDER / f"{ident}.yaml", models)
    return models


def placement(ident: str, card: Card, model: str, workload: Workload, engine: Engine, variant: str | None = None) -> Placement:
    report = fit(card, catalogue().get(model), HOST, workload=workload, engine=engine, variant_id=variant)
    assert report.choice is not None, report.reason
    assert report.variant_id is not None
    return Placement(ident, card.id, model, report.variant_id, report.choice, workload, report)


@cache
def rig_plan() -> Plan:
    """One simulated card with three placements, and one real card with nothing on it."""
    card = simulated_cpu_card(8 * 2**30)
    placements = (
        placement("llm-vllm", card, "smollm2-135m-instruct", TextWorkload(512, 2), Engine.VLLM),
        placement("llm-llamacpp", card, "qwen2.5-0.5b-instruct", TextWorkload(512, 2), Engine.LLAMACPP),
        placement("digits", card, "digits-sd", ImageWorkload(32, 32), Engine.DIFFUSERS),
    )
    return Plan(1, HOST, (card, *parse_cards("GTX 1060 3GB")), placements)


@dataclass
class Rig:
    """A gateway over a plan; each fake engine is its own worker too."""

    gateway: GatewayProcess
    engines: dict[str, FakeEngineProcess]

    def stop(self) -> None:
        self.gateway.stop()
        for engine in self.engines.values():
            engine.stop()


def start_rig(folder: Path, *more: str) -> Rig:
    flags, engines = start_engines(folder)
    return Rig(start_gateway(folder, *flags, *more), engines)


def start_engines(folder: Path, plan: Plan | None = None) -> tuple[tuple[str, ...], dict[str, FakeEngineProcess]]:
    """The engines of the plan (by default rig_plan), and what a gateway must be told about them."""
    plan = plan or rig_plan()
    (folder / "plan.yaml").write_text(dump_plan(plan))
    flavours = {Engine.VLLM: "vllm", Engine.LLAMACPP: "llama.cpp", Engine.DIFFUSERS: "diffusers"}
    engines, endpoints = {}, []
    for place in plan.placements:
        token = folder / f"{place.id}.token"
        token.write_text(f"token-of-{place.id}\n")
        flavour = flavours[place.choice.engine]
        engine = process.start(place.model_id, flavour=flavour, token_file=token, context=512, placement=place.id, card=place.card_id)
        engines[place.id] = engine
        endpoints.append({"placement_id": place.id, "worker_url": engine.url, "engine_url": engine.url, "token_file": str(token)})
    (folder / "endpoints.json").write_text(json.dumps({"endpoints": endpoints}))
    return ("--plan", str(folder / "plan.yaml"), "--endpoints", str(folder / "endpoints.json")), engines
