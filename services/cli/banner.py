"""What `rigserve serve` says when the stack is ready: where, on what, which models, and three lines to try."""

from __future__ import annotations

import shlex

from services.cli.output import gib
from services.cli.report_text import workload_text
from services.sizing.types import ImageWorkload, Placement, Plan


def banner(url: str, plan: Plan, states: dict[str, tuple[str, str | None]], seconds: float) -> str:
    """The ready banner, plain text."""
    lines = ["", f"rigserve is ready after {seconds:.1f} s", f"  gateway  {url}   (OpenAI base URL: {url}/v1)"]
    lines.append(f"  browser  {url}/dashboard")
    for card in plan.cards:
        label = "   simulated: true" if card.simulated else ""
        lines.append(f"  card     {card.name}, {gib(card.total_bytes)}{label}")
        for p in (p for p in plan.placements if p.card_id == card.id):
            lines.append(f"    model  {p.model_id} ({p.report.quant}, {p.choice.engine.value}, {workload_text(p.workload)}, "
                         f"{gib(p.report.need_bytes)}): {states[p.id][0]}")
            lines += [f"           {reason}" for reason in p.choice.reasons]
    lines += ["", "try:", *(f"  {line}" for line in _curls(url, plan, states)), "", "Ctrl-C stops everything."]
    return "\n".join(lines)


def _curls(url: str, plan: Plan, states: dict[str, tuple[str, str | None]]) -> list[str]:
    ready = [p for p in plan.placements if states[p.id][0] == "ready"]
    lines = [_curl(f"{url}{path}", body) for path, body in (_example(p) for p in _one_of_each(ready))]
    return [*lines, f"curl {url}/v1/cards"][:3]


def _one_of_each(ready: list[Placement]) -> list[Placement]:
    """The first text and the first image placement."""
    text = [p for p in ready if not isinstance(p.workload, ImageWorkload)][:1]
    image = [p for p in ready if isinstance(p.workload, ImageWorkload)][:1]
    return text + image


def _example(placement: Placement) -> tuple[str, str]:
    if isinstance(placement.workload, ImageWorkload):
        return "/v1/images/generations", f'{{"model": "{placement.model_id}", "prompt": "a photo of the digit seven"}}'
    return "/v1/chat/completions", (f'{{"model": "{placement.model_id}", "max_tokens": 40, '
                                    '"messages": [{"role": "user", "content": "What is the capital of France?"}]}')


def _curl(url: str, body: str) -> str:
    return f"curl {url} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
