"""One run of the simulation: a mix of cards, a load, a policy, a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import routing_policies as policies
from tests.bench.routing_cards import GIVE_UP_S, PROMPT_UNITS, Card, Clock, Request

SLOWER = 5.0
COLD_S = 10.0
SHARED_PREFIXES = 8
SHARED = 0.2
# share of the requests, prompt tokens, output tokens: on average 65.8 token times
KINDS = ((0.6, 50, 40), (0.3, 200, 100), (0.1, 2000, 60))
UNITS = sum(share * (prompt * PROMPT_UNITS + output) for share, prompt, output in KINDS)

# token time in seconds, slots
MIXES = {
    "six unequal": ((0.010, 8), (0.015, 8), (0.025, 4), (0.040, 4), (0.060, 2), (0.100, 1)),
    "two fast, four slow": ((0.012, 8), (0.012, 8), (0.060, 2), (0.060, 2), (0.060, 2), (0.060, 2)),
    "six alike": ((0.030, 4),) * 6,
    "one fast, one slow": ((0.015, 8), (0.060, 4)),
    "twelve of a rig": ((0.020, 6),) * 4 + ((0.035, 4),) * 4 + ((0.070, 2),) * 4,
}
POLICIES: dict[str, Callable[[list[Card], Clock, int], policies.Policy]] = {
    "rigserve": policies.ours,
    "rigserve, slots learned": policies.ours_learning_slots,
    "weighted by hand": policies.weighted_by_hand,
    "least connections": policies.least_connections,
    "power of two": policies.power_of_two,
    "round robin": policies.round_robin,
}


@dataclass(frozen=True, slots=True)
class Case:
    """`load` is relative to the cards' capacity before any change. `slower`: the card that turns 5x slower half-way; None: none does."""

    mix: str
    load: float
    policy: str
    seed: int
    seconds: float = 60.0
    slower: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Shares of requests. `good`: of all; `cold`: of those of the first COLD_S seconds; `late`: of those of the second half; `kinds`: of
    each of KINDS. `ttft_p99_s`: of those that were not refused; of clients that gave up it is GIVE_UP_S."""

    case: Case
    good: float
    cold: float
    late: float
    kinds: tuple[float, ...]
    refused: float
    ttft_p50_s: float
    ttft_p99_s: float


def capacity(mix: str, slower: int | None = None) -> float:
    """Token times a second."""
    return sum(slots / token_s / (SLOWER if index == slower else 1.0) for index, (token_s, slots) in enumerate(MIXES[mix]))


def trace(case: Case) -> list[Request]:
    """Poisson arrivals; the same for every policy. A short trace happens to be some percent above or below its load, so its times are
    stretched until the work in it is exactly the load."""
    dice = random.Random(f"{case.mix} {case.load} {case.seed}")
    offered = case.load * capacity(case.mix) * case.seconds
    requests, now, number, work = [], 0.0, SHARED_PREFIXES, 0.0
    while work < offered:
        now += dice.expovariate(1.0)
        _, prompt, output = dice.choices(KINDS, [share for share, _, _ in KINDS])[0]
        number += 1
        prefix = dice.randrange(SHARED_PREFIXES) if dice.random() < SHARED else number
        work += prompt * PROMPT_UNITS + output
        requests.append(Request(now, prompt, output, prefix))
    for request in requests:
        request.arrived_s *= case.seconds / now
    return requests


def run(case: Case) -> list[Request]:
    """All requests of the case, each with its ending."""
    clock = Clock()
    cards: list[Card] = []
    policy: policies.Policy
    cards.extend(Card(i, token_s, slots, clock, lambda r: policy.ended(r)) for i, (token_s, slots) in enumerate(MIXES[case.mix]))
    policy = POLICIES[case.policy](cards, clock, case.seed)
    requests = trace(case)

    def give_up(request: Request) -> None:
        if request.done_s is None and request.refused_s is None:
            policy.gave_up(request)

    for request in requests:
        clock.at(request.arrived_s, lambda r=request: policy.arrived(r))
        clock.at(request.arrived_s + GIVE_UP_S, lambda r=request: give_up(r))
    if case.slower is not None:
        slow = cards[case.slower]
        clock.at(case.seconds / 2, lambda: slow.turn(slow.token_s * SLOWER))
    clock.run()
    return requests


def measure(case: Case) -> Result:
    requests = run(case)
    waits = sorted(
        r.first_s - r.arrived_s if r.first_s is not None and r.done_s is not None else GIVE_UP_S for r in requests if r.refused_s is None
    )
    return Result(
        case,
        good=good_share(requests),
        cold=good_share([r for r in requests if r.arrived_s < COLD_S]),
        late=good_share([r for r in requests if r.arrived_s >= case.seconds / 2]),
        kinds=tuple(good_share([r for r in requests if r.prompt_tokens == prompt]) for _, prompt, _ in KINDS),
        refused=sum(r.refused_s is not None for r in requests) / len(requests),
        ttft_p50_s=waits[len(waits) // 2],
        ttft_p99_s=waits[int(len(waits) * 0.99)],
    )


def good_share(requests: list[Request]) -> float:
    return sum(request.good() for request in requests) / len(requests)
