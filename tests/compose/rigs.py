"""Plans for rigs of simulated cards, made by the planner itself; the command `rigserve plan` simulates one card at most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.cli.rig import rig_of_this_machine
from services.sizing.cards import simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan
from services.sizing.types import Card, Engine, Placement, Plan

LLM = "smollm2-135m-instruct"
IMAGE = "digits-sd"
CARD_BYTES = 3 * 2**30


def cards(count: int) -> tuple[Card, ...]:
    return tuple(simulated_cpu_card(CARD_BYTES, index) for index in range(count))


def planned(on: tuple[Card, ...], model: str, copies: int, engine: Engine | None = None) -> Plan:
    """One thread for each engine: on a rig every engine has a card; here all have two cores, and those of llama.cpp spin for each other."""
    host = replace(rig_of_this_machine().host, cpu_count=1)
    plan = make_plan(host, on, load_catalogue(), want=((model, copies),), engine=engine)
    assert len(plan.placements) == copies, (plan.refusals, plan.notes)
    return plan


def two_replicas() -> Plan:
    """One model twice, on llama.cpp: what loads within seconds and can be broken often."""
    return planned(cards(2), LLM, 2, Engine.LLAMACPP)


def four_cards() -> Plan:
    """The LLM on vLLM and on llama.cpp, the image model twice: all three engines, each placement on a card of its own."""
    rig = cards(4)
    first, second = planned(rig[:1], LLM, 1, Engine.VLLM), planned(rig[1:2], LLM, 1, Engine.LLAMACPP)
    other: Placement = replace(second.placements[0], id=f"{LLM}-2")
    return replace(first, cards=rig, placements=(*first.placements, other, *planned(rig[2:], IMAGE, 2).placements))


def write(plan: Plan, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_plan(plan), encoding="utf8")
    return path
