"""docs/swapping.md, from the results of a run. Every figure on the page comes from the results."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable

from services.gateway.residency import FORGET_S, LEAST_LONGEST_WAIT_S, LEAST_STAY_S, LONGEST_WAIT_LOADS, STAY_PER_LOAD
from tests.bench.swap_run import ANSWER_TOKENS, LINK, LOADS, MODELS, POLICIES, REQUESTS, RIGS, SHARES, THINK_S, TRAFFIC, Result, room, specs

OURS = "rigserve"
LRU = tuple(name for name in POLICIES if name.startswith("LRU by count"))
Found = dict[tuple[str, str, str, str], list[Result]]


def page(results: list[Result], seeds: int) -> str:
    found: Found = {}
    for result in results:
        case = result.case
        found.setdefault((case.rig, case.traffic, case.load, case.policy), []).append(result)
    return "\n".join([*_head(seeds), *_verdict(found), *_summary(found), *_rigs(), *_tables(found), *_limits()])


def _head(seeds: int) -> list[str]:
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    loads = ", ".join(f"{name}: one each {every_s:g} s" for name, every_s in LOADS.items())
    texts = (
        f"Written by `make bench-swap`; don't edit. **Cards, engines and clock are simulated**: {REQUESTS} "
        f"requests for {len(MODELS)} models "
        "on two cards that can't hold them all. rigserve's rows are decided by the gateway's own `services/gateway/residency.py`. Bytes, "
        "load seconds and speeds are the sizing's predictions for these cards on risers "
        f"(PCIe gen{LINK.generation} x{LINK.width}), none of them measured.",
        f"Traces: which model is asked for how often ({shares}) is drawn anew for each of seeds 0 to {seeds - 1}; arrivals are random "
        f"(Poisson), {loads} on average, as {' or '.join(TRAFFIC)} (of one model, {THINK_S:g} s apart). An answer is {ANSWER_TOKENS[0]} to "
        f"{ANSWER_TOKENS[1]} tokens or one picture.",
        "Every policy: a card is never filled beyond its bytes, loads one model at a time, lets running requests end before an unload, and "
        "requests that wait for one load share it. The other policies load for whoever waits longest, at "
        "once, and give up what is worth least.",
        "Swaps: unloads that made room for another. Total: from the first arrival to the last answer. Nobody gives up waiting.",
        f"rigserve's constants are the same everywhere: a least stay of {STAY_PER_LOAD:g} load time "
        f"({LEAST_STAY_S:g} s at least); a swap when "
        f"its price is paid in waiting, or when somebody waits {LONGEST_WAIT_LOADS:g} load times "
        f"({LEAST_LONGEST_WAIT_S:g} s at least) longer "
        f"than those it is taken from; use is remembered for {FORGET_S:g} s.",
    )
    wrapped = [line for text in texts for line in (*textwrap.wrap(text, 138), "")]
    return ["# Several models on a card: who stays in memory", "", *wrapped]


def _verdict(found: Found) -> list[str]:
    """Against LRU by count with whichever count is better, seed by seed."""
    said = "Run by run against the better of the two counts: how often rigserve has fewer swaps, a lower total time, both."
    columns = "| load | runs | fewer swaps | lower total time | both | swaps | total time | mean time of a request |"
    lines = ["## Against LRU by count", "", said, "", columns, "|---|---|---|---|---|---|---|---|"]
    for load in LOADS:
        pairs = [
            (ours, min((found[rig, traffic, load, name][index] for name in LRU), key=lambda r: (r.total_s, r.swaps)))
            for rig in RIGS for traffic in TRAFFIC for index, ours in enumerate(found[rig, traffic, load, OURS])
        ]  # fmt: skip
        swaps = [ours.swaps < lru.swaps for ours, lru in pairs]
        total = [ours.total_s < lru.total_s for ours, lru in pairs]
        both = [a and b for a, b in zip(swaps, total, strict=True)]

        def ratio(of: Callable[[Result], float], pairs: list[tuple[Result, Result]] = pairs) -> str:
            return f"{sum(of(ours) for ours, _ in pairs) / sum(of(lru) for _, lru in pairs):.1%} of LRU's"

        lines.append(f"| {load} | {len(pairs)} | {sum(swaps)} | {sum(total)} | {sum(both)} | {ratio(lambda r: r.swaps)} | "
                     f"{ratio(lambda r: r.total_s)} | {ratio(lambda r: r.request_s)} |")  # fmt: skip
    return [*lines, ""]


def _summary(found: Found) -> list[str]:
    lines = ["## All policies", "", "Mean over rigs, traffic and seeds.", "",
             "| load | policy | swaps | total | request, mean | request, 95 % | bus time |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for load in LOADS:
        for policy in POLICIES:
            all_of = [result for rig in RIGS for traffic in TRAFFIC for result in found[rig, traffic, load, policy]]
            lines.append(f"| {load} | {policy} | {_figures(all_of)} |")
    return [*lines, ""]


def _rigs() -> list[str]:
    lines = ["## The cards", "", "| rig | card | room | model: need, load |", "|---|---|---|---|"]
    for rig in RIGS:
        for card_id, room_bytes in room(rig).items():
            held = "; ".join(f"{s.model_id}: {s.need_bytes / 2**30:.1f} GiB, {s.load_s:.0f} s" for s in specs(rig) if s.card_id == card_id)
            lines.append(f"| {rig} ({RIGS[rig]}) | {card_id} | {room_bytes / 2**30:.2f} GiB | {held} |")
    return [*lines, ""]


def _tables(found: Found) -> list[str]:
    lines = ["## Each rig and traffic", "", "Mean over seeds."]
    for rig in RIGS:
        for traffic in TRAFFIC:
            lines += ["", f"### {rig}, {traffic}", "", "| load | policy | swaps | total | request, mean | request, 95 % | bus time |",
                      "|---|---|---|---|---|---|---|"]  # fmt: skip
            lines += [f"| {load} | {policy} | {_figures(found[rig, traffic, load, policy])} |" for load in LOADS for policy in POLICIES]
    return [*lines, ""]


def _figures(results: list[Result]) -> str:
    def mean(of: Callable[[Result], float]) -> float:
        return statistics.mean(of(result) for result in results)

    return (f"{mean(lambda r: r.swaps):.0f} | {mean(lambda r: r.total_s):.0f} s | {mean(lambda r: r.request_s):.1f} s | "
            f"{mean(lambda r: r.p95_s):.0f} s | {mean(lambda r: r.bus_s):.0f} s")  # fmt: skip


def _limits() -> list[str]:
    text = (
        "A real client waits 30 s or so and then comes back; here everybody waits to the end, so long waits "
        "of an overloaded rig show as they "
        "are. A simulated answer takes as long whatever runs beside it. With a quiet rig the last answer "
        "comes when the last request does, so "
        "the total says nothing there; what tells is the time of a request, and waiting for a swap to be "
        "worth its price can cost some seconds "
        "that a policy which swaps at once does not pay."
    )
    return ["## Limits of these figures", "", *textwrap.wrap(text, 138), ""]
