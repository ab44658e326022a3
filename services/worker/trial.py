"""What an engine can do on its card, measured once after each load with real requests, before anybody else is let in. Blocking."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from services.sizing.types import ImageWorkload
from services.worker.engines.order import Order
from services.worker.probe import Answer, EngineHttp, NoAnswer

TOKENS = 16  # of the measured generation: a second or two on a slow card
LEAST_TOKENS = 8  # fewer say nothing about a speed
STEPS = 3
TEXT_TIMEOUT_S = 15.0  # a start must not wait long for a figure
IMAGE_TIMEOUT_S = 300.0  # the largest picture on the slowest card
OUT_OF_MEMORY = re.compile(r"out of memory|out_of_memory|OutOfMemory|failed to allocate|bad_alloc", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one request at a time; None where none came. `problem`: the engine can't do what the plan promises."""

    tok_s: float | None = None
    images_per_min: float | None = None
    problem: str | None = None


def trial(http: EngineHttp, order: Order) -> Trial:
    """1. Images: the largest picture and batch that the placement admits, which is also what takes the most memory. 2. A chat model: a few
    tokens; KV cache and buffers were taken while loading. 3. An embedding model: nothing is predicted for it, nothing measured.

    A request that fails for want of memory is a problem of the start; one that fails otherwise, or takes too long, leaves figures unknown.
    """
    try:
        if isinstance(order.placement.workload, ImageWorkload):  # 1
            return _images(http, order, order.placement.workload)
        if order.model is None or order.model.kind == "chat":  # 2
            return _text(http, order)
    except NoAnswer:
        return Trial()
    return Trial()  # 3


def _text(http: EngineHttp, order: Order) -> Trial:
    """Decode speed from two generations of different length: what they share (connection, prompt, first token) drops out."""
    short_s, short, answer = _generate(http, order, 1)
    if answer.status == 200:
        long_s, long, answer = _generate(http, order, 1 + TOKENS)
    if answer.status != 200:
        return Trial(problem=_out_of_memory(answer))
    return Trial(tok_s=tokens_per_s(short, short_s, long, long_s))


def tokens_per_s(short: int | None, short_s: float, long: int | None, long_s: float) -> float | None:
    """Worked number: 1 token in 0.05 s and 33 tokens in 0.85 s are 40 tok/s. Counts are the engine's own usage."""
    if short is None or long is None or long - short < LEAST_TOKENS or long_s <= short_s:
        return None
    return round((long - short) / (long_s - short_s), 2)


def _generate(http: EngineHttp, order: Order, tokens: int) -> tuple[float, int | None, Answer]:
    body = {"model": order.placement.model_id, "prompt": "Hello", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    begun = time.monotonic()
    answer = http.ask("POST", "/v1/completions", body, timeout_s=TEXT_TIMEOUT_S)
    for_s = time.monotonic() - begun
    said = answer.json()
    usage: Any = said.get("usage") if isinstance(said, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return for_s, count if isinstance(count, int) else None, answer


def _images(http: EngineHttp, order: Order, workload: ImageWorkload) -> Trial:
    most = max(1, min(STEPS, workload.steps or STEPS))
    one_s, answer = _draw(http, order, workload, 1)
    if answer.status == 200 and most > 1:
        more_s, answer = _draw(http, order, workload, most)
    else:
        more_s = one_s
    if answer.status != 200:
        return Trial(problem=_out_of_memory(answer))
    usual = workload.steps or (order.model.image.default_steps if order.model and order.model.image else None)
    return Trial(images_per_min=images_per_min(one_s, more_s, most, usual, workload.batch))


def images_per_min(one_s: float, more_s: float, steps: int, usual_steps: int | None, batch: int) -> float | None:
    """Scaled from one step and a few steps to the usual number: a step's time, and what is paid once (text encoder, VAE).

    Worked number: 1 step 2 s, 3 steps 4 s: a step is 1 s, 1 s is paid once; 25 steps take 26 s: 2.31 images a minute.
    """
    if usual_steps is None or one_s <= 0 or (steps > 1 and more_s <= one_s):
        return None
    step_s = (more_s - one_s) / (steps - 1) if steps > 1 else one_s
    once_s = max(0.0, one_s - step_s)
    return round(60 * batch / (once_s + usual_steps * step_s), 2)


def _draw(http: EngineHttp, order: Order, workload: ImageWorkload, steps: int) -> tuple[float, Answer]:
    body = {"model": order.placement.model_id, "prompt": "measuring", "size": f"{workload.width_px}x{workload.height_px}",
            "n": workload.batch, "steps": steps, "response_format": "b64_json"}
    begun = time.monotonic()
    answer = http.ask("POST", "/v1/images/generations", body, timeout_s=IMAGE_TIMEOUT_S)
    return time.monotonic() - begun, answer


def _out_of_memory(answer: Answer) -> str | None:
    text = answer.body[:2000].decode("utf8", "replace")
    return f"out of memory at the largest request that was planned for: {text[:300]}" if OUT_OF_MEMORY.search(text) else None
