"""Runs one case: the engine by the worker's own command line, its largest request, its peak memory, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.hardware.memory import device_used_bytes
from services.sizing.types import Card, Engine, Host, TextWorkload
from services.worker.before_start import write_private
from services.worker.engines import launch
from services.worker.engines.environment import child_environment
from services.worker.engines.order import Launch, Order
from services.worker.failure import is_out_of_memory, why_it_ended
from services.worker.gauge import Gauge
from services.worker.probe import EngineHttp, NoAnswer
from services.worker.trial import OUT_OF_MEMORY as MEMORY_WORDS
from tests.gpu.cases import Case
from tests.gpu.dummy_text import write_folder, write_gguf_model

PROJECT = Path(__file__).parents[2]
TOKEN = "gpu-validation"
SAMPLE_S = 0.1
STOP_S = 10.0
REQUEST_S = 120.0
DYING_S = 10.0
SPARE_TOKENS = 32
STEPS = 2  # of an image: memory peaks in the first step and in the decode
START_S = {Engine.VLLM: 150.0, Engine.LLAMACPP: 60.0, Engine.DIFFUSERS: 90.0}
RAN, OUT_OF_MEMORY = "ran", "out of memory"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`happened`: RAN, OUT_OF_MEMORY, or why neither. `measured_bytes`: the peak, None where nothing could be read."""

    happened: str
    measured_bytes: int | None
    took_s: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Where cases run: the real card, its host, a folder for files, and the interpreter of each engine environment."""

    card: Card
    host: Host
    folder: Path
    pythons: dict[str, Path]


def run_case(case: Case, bench: Bench, free_bytes: int | None, until_s: float) -> Outcome:
    """Force the case to run, whatever the sizing thinks of it. `until_s`: monotonic time at which it is given up."""
    begun = time.monotonic()
    order = order_of(case, bench, free_bytes)
    plan = forced(launch(order), order)
    for file in plan.files:
        write_private(file)
    before = device_used_bytes(bench.card.id)
    log = bench.folder / "engine.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            plan.argv, env=child_environment(os.environ, bench.card) | plan.env, cwd=plan.cwd, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
    gauge, over = Gauge(bench.card, process.pid, before), threading.Event()
    sampler = threading.Thread(target=_sample, args=(gauge, over), daemon=True)
    sampler.start()
    try:
        limit_s = min(until_s, begun + START_S[order.placement.choice.engine])
        happened = _to_its_largest_request(process, plan, order, log, limit_s)
    finally:
        over.set()
        sampler.join()
        _stop(process)
    return Outcome(happened, gauge.peak_bytes, time.monotonic() - begun)


def order_of(case: Case, bench: Bench, free_bytes: int | None) -> Order:
    """The order that a worker would get, with dummy weights."""
    choice = case.judged.choice
    token_file = bench.folder / "token"
    token_file.write_text(TOKEN, encoding="utf8")
    order = Order(
        placement=case.placement(bench.card), card=bench.card, host=bench.host, model=case.model, weights=bench.folder,
        engine_host="127.0.0.1", engine_port=_free_port(), token=TOKEN, token_file=token_file, state_dir=bench.folder, project=PROJECT,
        engine_python=bench.pythons[choice.environment], free_bytes=free_bytes,
    )
    return replace(order, weights=weights_of(case, bench, order))


def weights_of(case: Case, bench: Bench, order: Order) -> Path:
    """Made once for each model and variant."""
    where = bench.folder / f"{case.model.id}-{case.judged.variant.id}"
    if case.judged.choice.engine is Engine.LLAMACPP:
        path = where / "model.gguf"
        assert case.model.text is not None
        return path if path.exists() else write_gguf_model(path, case.model.text, case.judged.variant)
    if (where / "config.json").exists() or (where / "model_index.json").exists():
        return where
    if case.model.text is not None:
        return write_folder(where, case.model.text, case.judged.variant)
    subprocess.run(
        [order.python(), "-m", "tests.gpu.dummy_pipeline", case.model.id, str(where)], check=True, cwd=PROJECT, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'models'}"},
    )
    return where


def forced(plan: Launch, order: Order) -> Launch:
    """vLLM makes the weights up instead of reading them (its --load-format dummy); all else is as in service."""
    if order.placement.choice.engine is not Engine.VLLM:
        return plan
    words = list(plan.argv)
    words[words.index("--load-format") + 1] = "dummy"
    return replace(plan, argv=tuple(words))


def _to_its_largest_request(process: subprocess.Popen[bytes], plan: Launch, order: Order, log: Path, until_s: float) -> str:
    """1. It ends by itself: out of memory, or what its log says. 2. It is ready and does its largest: ran, or out of memory. 3. Neither in
    time, or it gives no answer and does not end."""
    http = EngineHttp(order.engine_host, order.engine_port, TOKEN)
    said = "not ready in time"
    while time.monotonic() < until_s:
        if (code := process.poll()) is not None:  # 1
            why = why_it_ended(code if code >= 0 else 128 - code, log.read_text(encoding="utf8", errors="replace").splitlines())
            return OUT_OF_MEMORY if is_out_of_memory(why) else why
        with suppress(NoAnswer):
            if said == "not ready in time" and http.ask("GET", plan.health_path, timeout_s=2).status == 200:
                try:
                    return _largest(http, plan, order)  # 2
                except NoAnswer as error:  # it may be dying of it: its end says why
                    said, until_s = f"a request got no answer: {error}", min(until_s, time.monotonic() + DYING_S)
        time.sleep(0.2)
    return said  # 3


def _largest(http: EngineHttp, plan: Launch, order: Order) -> str:
    """The smallest request first, as the worker does (an engine that can't do that says nothing about memory), then the largest, text as
    many at once as were planned for. Raises NoAnswer."""
    answers = [http.ask("POST", plan.warm_up.path, plan.warm_up.body, timeout_s=REQUEST_S)]
    if answers[0].status == 200:
        bodies = largest_requests(order)
        with ThreadPoolExecutor(len(bodies)) as threads:
            answers = list(threads.map(lambda body: http.ask("POST", plan.warm_up.path, body, timeout_s=REQUEST_S), bodies))
    bad = next((answer for answer in answers if answer.status != 200), None)
    if bad is None:
        return RAN
    text = bad.body[:2000].decode("utf8", "replace")
    return OUT_OF_MEMORY if MEMORY_WORDS.search(text) else f"a request was answered {bad.status}: {text[:300]}"


def largest_requests(order: Order) -> list[dict[str, Any]]:
    """Text: every sequence full to its context but a few tokens (a letter is a token of the dummy vocabulary). Image: the largest batch."""
    workload, model = order.placement.workload, order.placement.model_id
    if isinstance(workload, TextWorkload):
        body = {"model": model, "prompt": "x" * (workload.context_tokens - SPARE_TOKENS), "max_tokens": 8, "temperature": 0}
        return [body] * workload.sequences
    return [{"model": model, "prompt": "largest", "size": f"{workload.width_px}x{workload.height_px}", "n": workload.batch, "steps": STEPS,
             "response_format": "b64_json"}]


def _sample(gauge: Gauge, over: threading.Event) -> None:
    while not over.wait(SAMPLE_S):
        gauge.sample()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """All of its session: vLLM's helpers hold the card's memory."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
