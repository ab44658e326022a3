"""The worker with real engines on the simulated CPU card: what the plan says is what runs, and nothing is left of it."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from services.hardware.host import read_host
from services.hardware.memory import process_tree
from services.provision import environments, weights
from services.provision.progress import silent
from services.sizing.cards import simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.types import Engine, TextWorkload
from tests.worker.running import Worker, Workers, alive, gone
from tests.worker.sample import GIB, TOKEN

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
START_S = 300.0
LONG_TEXT = {"model": "smollm2-135m-instruct", "prompt": "Once upon a time", "max_tokens": 150, "min_tokens": 150, "ignore_eos": True}


def real(workers: Workers, model_id: str, engine: Engine) -> tuple[Worker, TextWorkload | None]:
    """A worker as `serve` would start it; builds the environment and fetches the weights when they are not there yet."""
    catalogue = load_catalogue()
    made = make_plan(read_host(), (simulated_cpu_card(4 * GIB),), catalogue, want=[(model_id, 1)], engine=engine)
    (where,) = made.placements
    assert where.choice.engine is engine
    model = catalogue.get(model_id)
    variant = next(v for v in model.variants if v.id == where.variant_id)
    worker = workers.start_real(made, weights.ensure(model, variant, silent), environments.ensure(where.choice.environment, silent),
                                "--drain-s", "120")
    return worker, where.workload if isinstance(where.workload, TextWorkload) else None


def check_the_end(worker: Worker, workers: Workers, engine: Engine, path: str, body: dict[str, Any]) -> None:
    """No secret anywhere; a SIGTERM lets a request that runs end, whole, and leaves nothing."""
    tree = process_tree(worker.process.pid)
    for pid in tree:
        for name in ("cmdline", "environ"):
            assert TOKEN.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert worker.in_flight(engine) == 0
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(worker.ask_engine("POST", path, body)))
    asking.start()
    until = time.monotonic() + 20
    while not worker.in_flight(engine):
        assert time.monotonic() < until, "the engine does not count its requests"
    assert worker.stop(within_s=140) == 0
    asking.join()
    assert got, "the request was cut off"
    assert "no request runs" in worker.errors()
    assert not [pid for pid in tree if alive(pid)]
    assert TOKEN not in worker.log()
    assert not list((workers.folder / "state").iterdir())


def test_llamacpp(workers: Workers) -> None:
    worker, workload = real(workers, "smollm2-135m-instruct", Engine.LLAMACPP)
    assert workload
    before = worker.wait_for("ready", START_S)
    assert before["engine_version"][0].isdigit()
    assert before["peak_bytes"] > 100 * 2**20
    facts = worker.ask_engine("GET", "/props")
    assert facts["default_generation_settings"]["n_ctx"] == workload.context_tokens
    assert facts["total_slots"] == workload.sequences
    answer = worker.ask_engine("POST", "/v1/chat/completions", {
        "model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8})
    assert answer["model"] == "smollm2-135m-instruct"
    assert 1 <= answer["usage"]["completion_tokens"] <= 8
    os.kill(before["engine_pid"], signal.SIGKILL)
    after = worker.wait_for(lambda now: now["state"] == "ready" and now["restarts"] == 1, START_S)
    assert after["engine_pid"] != before["engine_pid"]
    check_the_end(worker, workers, Engine.LLAMACPP, "/v1/completions", LONG_TEXT)


def test_vllm(workers: Workers) -> None:
    worker, workload = real(workers, "smollm2-135m-instruct", Engine.VLLM)
    assert workload
    status = worker.wait_for("ready", START_S)
    (served,) = [m for m in worker.ask_engine("GET", "/v1/models")["data"] if m["id"] == "smollm2-135m-instruct"]
    assert served["max_model_len"] == workload.context_tokens
    answer = worker.ask_engine("POST", "/v1/chat/completions", {
        "model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "logprobs": True})
    assert 1 <= answer["usage"]["completion_tokens"] <= 8
    # Its helpers die with it, also by SIGKILL.
    tree = process_tree(status["engine_pid"])
    assert len(tree) >= 3
    os.kill(status["engine_pid"], signal.SIGKILL)
    assert worker.wait_for(lambda now: now["state"] != "ready")["state"] == "restarting"
    assert all(gone(pid) for pid in tree)
    worker.wait_for("ready", START_S)
    check_the_end(worker, workers, Engine.VLLM, "/v1/completions", LONG_TEXT)


def test_diffusion(workers: Workers) -> None:
    worker, _ = real(workers, "digits-sd", Engine.DIFFUSERS)
    worker.wait_for("ready", START_S)
    answer = worker.ask_engine("POST", "/v1/images/generations", {
        "model": "digits-sd", "prompt": "a photo of the digit seven", "size": "32x32", "n": 1, "seed": 7})
    assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(b"\x89PNG")
    check_the_end(worker, workers, Engine.DIFFUSERS, "/v1/images/generations", {
        "model": "digits-sd", "prompt": "a photo of the digit seven", "size": "32x32", "n": 4, "steps": 100})
