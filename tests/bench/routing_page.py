"""docs/routing.md, from the results of a run. Every figure on the page comes from the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from tests.bench.routing_run import COLD_S, KINDS, MIXES, POLICIES, SHARED, SHARED_PREFIXES, SLOWER, UNITS, Result, capacity

OURS = ("rigserve", "rigserve, slots learned")
TARGETS = {0.5: 0.98, 0.8: 0.98, 0.95: 0.98, 1.2: 0.80}
LIMITS = """## Limits of these figures

A simulated card's token time does not depend on how many run beside a request; a real engine's does, and the queue learns the mean of what
it sees. A prompt does not hold up the tokens of others. `cache_aware` policies are not simulated. Where a card has turned so slow that an
answer on it takes over 10 s, rigserve still uses it when nothing else is free: it does not know how long a client is ready to wait for the
end of an answer.
"""
LIVE = """## In the gateway

The page is of simulated cards; this is what a running gateway does with the same queue. `tests/reliability/test_routing_live.py` holds it
to most of it, with engines of unequal speed and nothing configured.

- **Slots.** A placement of a plan has as many as the plan gave it sequences. A `--backend` for text learns them, from 4 on;
  `--limit-backend-slots N` sets them. An image engine has 1, and each image model a queue of its own.
- **Speed.** Whatever is served whole teaches its card: seconds per token from a stream's first to its last, of other answers the whole
  time (a prompt token counts as 0.02 tokens), seconds per picture. What failed, was refused or left by its client teaches nothing.
- **Priority.** The request field `priority`, 0 to 9, text and images alike: 0, the default, is interactive; each step up (batch is 1) lets
  others go first, for a while and not for ever. Nobody can go before the interactive. The engine does not see the field.
- **Fairness.** Keys take turns in the queue, `n` answers or pictures take as many turns, and no key has more than half of a queue.
- **Deadlines.** A request waits for a seat at most `--deadline-queue-s` (30) or `--deadline-image-queue-s` (300). One that would wait
  longer, by the measured time of requests and those before it, is refused at once: 429 with that time as Retry-After.
  `--deadline-ttft-s 2` also refuses interactive text that can't have its first token within 2 s, as in the tables above; it is off
  unless set, since a slow card's long prompt may take longer than that by itself. With `priority` 1 or more only the queue's holds.
- **Cached beginnings.** Of cards about equally fast, one that has lately seen the same beginning of a prompt goes first: its first 1024
  characters, up to the end of the first user message, from requests of 512 bytes on. The key is part of what is compared, so how long a
  request takes tells nothing of what other keys have asked.
- **Second attempts.** What failed before its first byte goes to the front of the queue, once, for another card. If none is left it is told
  so at once. A connection that was kept and is cut more than 0.5 s after a request was written to it was not stale: its engine died, and is
  not asked again.
"""
Key = tuple[str, float, str, int | None]


def page(results: list[Result], seeds: int, seconds: float) -> str:
    found: dict[Key, list[Result]] = {}
    for result in results:
        case = result.case
        found.setdefault((case.mix, case.load, case.policy, case.slower), []).append(result)
    tables = (_targets, _compared, _steady, _cold, _slower, _kinds)
    return "\n".join([_head(seeds, seconds), *(line for table in tables for line in table(found)), LIMITS, LIVE])


def _head(seeds: int, seconds: float) -> str:
    return f"""# Who gets a request: routing over unequal cards

Written by `make bench-routing`; don't edit. **Every card here is simulated**: events of a simulated clock, no network, no engine, no GPU.
rigserve's rows drive the gateway's own `ModelQueue`, the others are the policies as their projects describe them.

- **Good**: first token within 2 s and done within 10 s. A refused request is not good. Clients give up after 20 s.
- A card runs as many requests at a time as it has slots, each at its own token time, and queues the rest. A prompt token costs 0.02 token
  times, a tenth when the card lately saw the same beginning.
- Requests: {", ".join(f"{share:.0%} with {prompt} prompt and {output} output tokens" for share, prompt, output in KINDS)}; on average
  {UNITS:.1f} token times. {SHARED:.0%} share one of {SHARED_PREFIXES} beginnings.
- Poisson arrivals for {seconds:g} s, stretched until the work in a trace is exactly its load (a short one happens to be some
  percent off); seeds 0 to {seeds - 1}, the same traces for every policy. Every run starts cold and counts from its first request.
- rigserve is told no weights and no speeds; "slots learned" isn't told the slots either. It refuses what can't have its first token in 2 s.
  "Weighted by hand" is least connections with each card's true slots / token time.
"""


def _targets(found: dict[Key, list[Result]]) -> Iterable[str]:
    yield "## Targets\n"
    yield "Mean over seeds of the worst mix, and the worst single run of all mixes.\n"
    yield "| load | target | " + " | ".join(f"{policy}: worst mix | worst run" for policy in OURS) + " |"
    yield "|---|---|" + "---|" * 2 * len(OURS)
    missed = []
    for load, target in TARGETS.items():
        cells = []
        for policy in OURS:
            means = {mix: _mean(found[mix, load, policy, None]) for mix in MIXES}
            mix = min(means, key=means.__getitem__)
            worst = min(result.good for name in MIXES for result in found[name, load, policy, None])
            cells += [f"{_percent(means[mix])} ({mix})", _percent(worst)]
            missed += [f"{policy}, {name} at {load:.0%}: {_percent(mean)}" for name, mean in means.items() if mean < target]
        yield f"| {load:.0%} | {target:.0%} | " + " | ".join(cells) + " |"
    yield "\nMissed, from the cold start to the end (mean over seeds): " + ("; ".join(missed) if missed else "none") + ".\n"
    for policy in OURS:
        parts = _missed_parts(found, policy)
        yield f"{policy}, under 98 % where the cards could serve all (load up to 95 % of what is left): {'; '.join(parts) or 'nowhere'}.\n"


def _missed_parts(found: dict[Key, list[Result]], policy: str) -> list[str]:
    """The cells of the cold and the slower tables that miss the target."""
    parts = []
    for (mix, load, name, card), results in found.items():
        if name != policy or load * capacity(mix) > 0.951 * capacity(mix, card):
            continue
        cold, late = statistics.mean(r.cold for r in results), statistics.mean(r.late for r in results)
        if card is None and cold < 0.98:
            parts.append(f"{mix} cold at {load:.0%}: {_percent(cold)}")
        if card is not None and late < 0.98:
            parts.append(f"{mix} at {load:.0%}, {MIXES[mix][card][0] * 1000:g} ms card turned slow: {_percent(late)}")
    return parts


def _compared(_: dict[Key, list[Result]]) -> Iterable[str]:
    yield "## What is compared\n"
    yield "| mix | cards: token time in ms x slots | capacity, token times/s | requests/s at 95 % |"
    yield "|---|---|---|---|"
    for mix, cards in MIXES.items():
        shown = ", ".join(f"{token_s * 1000:g} x {slots}" for token_s, slots in cards)
        yield f"| {mix} | {shown} | {capacity(mix):.0f} | {0.95 * capacity(mix) / UNITS:.1f} |"
    yield ""


def _steady(found: dict[Key, list[Result]]) -> Iterable[str]:
    yield "## Good, by load\n"
    yield "Mean over seeds (worst seed). TTFT p50 / p99 in seconds at 95 % of those that were not refused.\n"
    for mix in MIXES:
        yield f"### {mix}\n"
        yield "| policy | " + " | ".join(f"{load:.0%}" for load in TARGETS) + " | TTFT at 95% | refused at 120% |"
        yield "|---|" + "---|" * (len(TARGETS) + 2)
        for policy in POLICIES:
            cells = [_cell(found[mix, load, policy, None], lambda r: r.good) for load in TARGETS]
            at_95, at_120 = found[mix, 0.95, policy, None], found[mix, 1.2, policy, None]
            p50, p99 = (statistics.mean(value) for value in zip(*((r.ttft_p50_s, r.ttft_p99_s) for r in at_95), strict=True))
            cells += [f"{p50:.2f} / {p99:.2f}", _percent(statistics.mean(r.refused for r in at_120))]
            yield f"| {policy} | " + " | ".join(cells) + " |"
        yield ""


def _cold(found: dict[Key, list[Result]]) -> Iterable[str]:
    yield f"## Cold: the first {COLD_S:g} s after the start\n"
    yield "Good of those that arrived then: nothing was measured before. Mean over seeds (worst seed).\n"
    loads = (0.5, 0.8, 0.95)
    yield "| mix | load | " + " | ".join(POLICIES) + " |"
    yield "|---|---|" + "---|" * len(POLICIES)
    for mix in MIXES:
        for load in loads:
            cells = [_cell(found[mix, load, policy, None], lambda r: r.cold) for policy in POLICIES]
            yield f"| {mix} | {load:.0%} | " + " | ".join(cells) + " |"
    yield ""


def _slower(found: dict[Key, list[Result]]) -> Iterable[str]:
    yield f"## One card turns {SLOWER:g}x slower half-way\n"
    yield "Good of those that arrived after the change. The load is of the capacity before it; 'possible' is the share that the cards' work"
    yield "still covers after it (capacity left / work offered, at most 100 %).\n"
    yield "| mix, card | load before → after | possible | " + " | ".join(POLICIES) + " |"
    yield "|---|---|---|" + "---|" * len(POLICIES)
    changed = {(mix, card, load) for mix, load, _, card in found if card is not None}
    for mix, card, load in sorted(changed, key=lambda key: (list(MIXES).index(key[0]), *key[1:])):
        left = capacity(mix, card) / capacity(mix)
        cells = [_cell(found[mix, load, policy, card], lambda r: r.late) for policy in POLICIES]
        token_ms = MIXES[mix][card][0] * 1000
        yield f"| {mix}, {token_ms:g} ms | {load:.0%} → {load / left:.0%} | {_percent(min(1, left / load))} | " + " | ".join(cells) + " |"
    yield ""


def _kinds(found: dict[Key, list[Result]]) -> Iterable[str]:
    yield "## Who is refused in overload\n"
    yield "At 120 % someone must be. A long prompt has less time to wait for its first token, so it is refused sooner: that is what the"
    yield "limit on it means, and the price of it; it is also why more than 1 / 1.2 = 83 % of all requests can be good. Good at 120 % by"
    yield "kind, mean over mixes and seeds.\n"
    yield "| policy | " + " | ".join(f"{prompt} prompt tokens" for _, prompt, _ in KINDS) + " |"
    yield "|---|" + "---|" * len(KINDS)
    for policy in POLICIES:
        all_of = [result for mix in MIXES for result in found[mix, 1.2, policy, None]]
        yield f"| {policy} | " + " | ".join(_percent(statistics.mean(r.kinds[i] for r in all_of)) for i in range(len(KINDS))) + " |"
    yield ""


def _cell(results: list[Result], share: Callable[[Result], float]) -> str:
    shares = [share(result) for result in results]
    return f"{_percent(statistics.mean(shares))} ({_percent(min(shares))})"


def _mean(results: list[Result]) -> float:
    return statistics.mean(result.good for result in results)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
