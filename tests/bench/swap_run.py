"""One run of the comparison: a rig of two cards, a kind of traffic, a load, a policy, a seed."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, replace
from functools import cache

from services.sizing.cards import parse_cards
from services.sizing.catalogue import MODELS_FOLDER, load_model
from services.sizing.fit import fit
from services.sizing.plan_options import have_bytes
from services.sizing.types import Host, ImageWorkload, PcieLink, TextWorkload, Workload
from tests.bench.swap_policies import POLICIES
from tests.bench.swap_rig import Place, Request, Rig, Spec

REQUESTS = 1000
HOST = Host(8 * 2**30, 6 * 2**30, "two cores", 2, ("avx2", "fma", "f16c", "bmi2"), "x86_64")
RIGS = {"two of 8 GB": "GTX 1070:2", "6 GB and 12 GB": "P106-100:1,RTX 3060 12GB:1", "8 GB and 12 GB": "RTX 3060 Ti:1,RTX 3060 12GB:1"}
LINK = PcieLink(1, 1)
MODELS: dict[str, Workload] = {
    "llama-3.1-8b-instruct": TextWorkload(4096, 1),
    "qwen2.5-coder-7b-instruct": TextWorkload(4096, 1),
    "qwen2.5-1.5b-instruct": TextWorkload(4096, 4),
    "llama-3.2-3b-instruct": TextWorkload(4096, 2),
    "sd-1.5": ImageWorkload(512, 512),
}
ANSWER_TOKENS = (20, 300)
SHARES = (0.40, 0.25, 0.15, 0.12, 0.08)  # which model is asked for how often is drawn anew for each seed
TRAFFIC = {"single requests": 1, "in sessions of 1 to 8": 8}
THINK_S = 10.0
# Seconds between two requests, on average: more than any policy can serve at once; served if swaps are few; cards mostly idle.
LOADS = {"backlog": 1.0, "busy": 8.0, "quiet": 60.0}


@dataclass(frozen=True, slots=True)
class Case:
    rig: str
    traffic: str
    load: str
    policy: str
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """`swaps`: unloads that made room for another. `total_s`: from the first arrival to the last answer. `request_s`: mean time of a
    request from its arrival to its end. `bus_s`: time that buses were loading."""

    case: Case
    swaps: int
    loads: int
    total_s: float
    request_s: float
    p95_s: float
    worst_s: float
    bus_s: float


@cache
def specs(rig: str) -> tuple[Spec, ...]:
    """Every model on every card of the rig that it fits: bytes, load seconds and speed as the sizing says."""
    found = []
    for number, card in enumerate(parse_cards(RIGS[rig])):
        card = replace(card, id=f"card-{number}", link=LINK)
        for model_id, workload in MODELS.items():
            report = fit(card, load_model(MODELS_FOLDER / f"{model_id}.yaml"), HOST, workload=workload)
            if not report.fits or (report.need_bytes or 0) > room(rig)[card.id]:
                continue
            assert report.need_bytes is not None
            assert report.speed is not None
            assert report.speed.load_s is not None
            slots = workload.sequences if isinstance(workload, TextWorkload) else 1
            per_s = report.speed.decode_tok_s if report.speed.images_per_min is None else report.speed.images_per_min / 60
            assert per_s is not None
            found.append(Spec(model_id, card.id, report.need_bytes, report.speed.load_s, slots, 1 / per_s))
    return tuple(found)


@cache
def room(rig: str) -> dict[str, int]:
    return {f"card-{number}": have_bytes(card) for number, card in enumerate(parse_cards(RIGS[rig]))}


def trace(case: Case) -> list[Request]:
    """The same for every policy: sessions of one model each begin at random (Poisson) until there are REQUESTS requests."""
    dice = random.Random(f"{case.rig} {case.traffic} {case.load} {case.seed}")
    models = list(MODELS)
    dice.shuffle(models)
    longest = TRAFFIC[case.traffic]
    between_s = LOADS[case.load] * (1 + longest) / 2
    requests: list[Request] = []
    begin_s = 0.0
    while len(requests) < REQUESTS:
        begin_s += dice.expovariate(1 / between_s)
        model_id = dice.choices(models, SHARES)[0]
        at_s = begin_s
        for _ in range(dice.randint(1, longest)):
            work = float(dice.randint(*ANSWER_TOKENS)) if isinstance(MODELS[model_id], TextWorkload) else 1.0
            requests.append(Request(model_id, at_s, work))
            at_s += dice.expovariate(1 / THINK_S)
    return sorted(requests[:REQUESTS], key=lambda request: request.arrived_s)


def measure(case: Case) -> Result:
    requests = trace(case)
    rig = Rig(dict(room(case.rig)), [Place(spec) for spec in specs(case.rig)], POLICIES[case.policy]())
    rig.run(requests)
    took = sorted((request.done_s or 0.0) - request.arrived_s for request in requests)
    total_s = max(request.done_s or 0.0 for request in requests) - requests[0].arrived_s
    p95_s = took[int(len(took) * 0.95)]
    return Result(case, rig.evictions, rig.loads, total_s, statistics.mean(took), p95_s, took[-1], rig.bus_s)
