"""A gateway that is never asked anything: its meters are filled by hand, on a clock of our own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from services.gateway.backends import Backend
from services.gateway.core import Gateway, Inputs
from services.gateway.outcome import Ending, Outcome
from services.gateway.settings import Settings
from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.types import Engine, ImageWorkload, Placement, Plan, TextWorkload
from services.wire.shapes import TokenUsage
from tests.gateway.rig import HOST, catalogue, placement

NOW = 100_000.5
CHAT, IMAGE = "llama-3.2-1b-instruct", "sd-1.5"


@cache
def placed() -> tuple[Plan, dict[str, Placement]]:
    """Two real cards and a simulated one: two models on the first, one of them alone on the second, one that is simulated."""
    both, alone = parse_cards("RTX 3060 Ti:2")
    simulated = simulated_cpu_card(8 * 2**30)
    placements = {
        "chat": placement("chat", both, CHAT, TextWorkload(2048, 4), Engine.VLLM),
        "image": placement("image", both, IMAGE, ImageWorkload(512, 512), Engine.DIFFUSERS),
        "alone": placement("alone", alone, "llama-3.1-8b-instruct", TextWorkload(2048, 1), Engine.LLAMACPP),
        "slow": placement("slow", simulated, "smollm2-135m-instruct", TextWorkload(512, 2), Engine.VLLM),
    }
    return Plan(1, HOST, (both, alone, simulated), tuple(placements.values())), placements


def made(folder: Path, **settings: Any) -> tuple[Gateway, dict[str, Backend]]:
    plan, placements = placed()
    endpoint = {"worker_url": "http://127.0.0.1:9", "engine_url": "http://127.0.0.1:9"}
    endpoints = folder / "endpoints.json"
    endpoints.write_text(json.dumps({"endpoints": [{"placement_id": ident, **endpoint} for ident in placements]}))
    gateway = Gateway(Inputs(Settings(endpoints=endpoints, **settings), plan, catalogue()))
    gateway.throughput.started_s = NOW - 4000
    return gateway, {backend.id: backend for backend in gateway.directory.backends}


def watch(gateway: Gateway, backend: Backend, watts: float, *, seconds: int = 100, source: str = "counter") -> None:
    """The card's worker speaks once a second up to NOW."""
    for second in range(seconds + 1):
        reading = {"energy_j": 500 + watts * second, "energy_source": source, "age_s": 0.0, "power_watts": watts, "temperature_c": 60}
        backend.status = {"telemetry": reading, "card_state": "ok"}
        gateway.throughput.energy.said(backend, NOW - seconds + second)


def ended(gateway: Gateway, backend: Backend, begun: float, took: float, **more: Any) -> Outcome:
    """A request seated at `begun` seconds before NOW."""
    outcome = Outcome("id", "ours", "/v1/chat/completions", NOW - begun, backend.model_id, backend=backend, ending=Ending.SERVED)
    outcome.queue_s, outcome.seated_s, outcome.ended_s = 0.0, NOW - begun, NOW - begun + took
    for name, value in more.items():
        setattr(outcome, name, value)
    gateway.throughput.ended([outcome])
    return outcome


def stream(gateway: Gateway, backend: Backend, begun: float, took: float, tokens: int) -> Outcome:
    first = NOW - begun + 0.1
    return ended(gateway, backend, begun, took, first_s=first, last_s=NOW - begun + took, tokens=TokenUsage(20, tokens))
