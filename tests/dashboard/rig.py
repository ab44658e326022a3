"""A gateway over a plan of four cards, of which three have an engine (a fake one): what the dashboard's tests look at.

The readings of the real cards are made up, in the shape of `services.hardware.telemetry.Reading`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.fit import fit
from services.sizing.planfile import dump_plan
from services.sizing.types import Engine, ImageWorkload, Plan, Refusal, TextWorkload
from tests.fakes import process
from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import HOST, GatewayProcess, catalogue, placement, start_gateway

CARDS = "RTX 3060 Ti@gen3x4#GPU-6f1d2c30, P104-100 8GB@gen1x4#GPU-90be11a7, GTX 1060 3GB#GPU-3c77e0d4"
CHAT, TINY, PAINTER, REFUSED = "qwen2.5-1.5b-instruct", "smollm2-135m-instruct", "sd-1.5", "llama-3.1-8b-instruct"
TOO_LARGE = "qwen2.5-32b-instruct"


def reading(watts: float, celsius: float, used_bytes: int, width: int, generation: int) -> dict[str, Any]:
    return {"power_watts": watts, "temperature_c": celsius, "used_bytes": used_bytes, "pcie_width": width, "pcie_generation": generation,
            "throttle_reasons": [], "energy_j": 81_233.0, "energy_source": "counter", "age_s": 0.4}  # fmt: skip


READINGS = {"chat": reading(141.0, 61.0, 6_300_000_000, 4, 3), "painter": reading(96.5, 54.0, 3_900_000_000, 4, 1)}


@cache
def plan() -> Plan:
    real = parse_cards(CARDS)
    cards = (*real, simulated_cpu_card(2 * 2**30))
    placements = (
        placement("chat", cards[0], CHAT, TextWorkload(4096, 8), Engine.VLLM),
        placement("painter", cards[1], PAINTER, ImageWorkload(512, 512), Engine.DIFFUSERS),
        placement("tiny", cards[3], TINY, TextWorkload(1024, 2), Engine.LLAMACPP),
    )
    refused = Refusal(TOO_LARGE, tuple(fit(card, catalogue().get(TOO_LARGE), HOST) for card in cards))
    notes = ("GTX 1060 3GB stays empty: no model that was asked for fits beside its driver.",)
    return Plan(1, HOST, cards, placements, (refused,), notes)


@dataclass
class Rig:
    gateway: GatewayProcess
    engines: dict[str, FakeEngineProcess]

    @property
    def page(self) -> str:
        return self.gateway.url + "/dashboard"

    def reset(self) -> None:
        for name, engine in self.engines.items():
            engine.reset()
            if name in READINGS:
                engine.set(status={"telemetry": READINGS[name], "card_state": "ok"})
            engine.dirty = False

    def stop(self) -> None:
        self.gateway.stop()
        for engine in self.engines.values():
            engine.stop()


def start(folder: Path) -> Rig:
    (folder / "plan.yaml").write_text(dump_plan(plan()))
    flavours = {Engine.VLLM: "vllm", Engine.LLAMACPP: "llama.cpp", Engine.DIFFUSERS: "diffusers"}
    engines, endpoints = {}, []
    for place in plan().placements:
        token = folder / f"{place.id}.token"
        token.write_text(f"token-of-{place.id}\n")
        engine = process.start(place.model_id, flavour=flavours[place.choice.engine], token_file=token, context=4096, placement=place.id,
                               card=place.card_id)
        engines[place.id] = engine
        endpoints.append({"placement_id": place.id, "worker_url": engine.url, "engine_url": engine.url, "token_file": str(token)})
    (folder / "endpoints.json").write_text(json.dumps({"endpoints": endpoints}))
    gateway = start_gateway(folder, "--plan", str(folder / "plan.yaml"), "--endpoints", str(folder / "endpoints.json"))
    rig = Rig(gateway, engines)
    rig.reset()
    gateway.wait_ready()
    return rig
