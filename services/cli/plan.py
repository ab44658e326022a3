"""`rigserve plan`: which model goes on which card, written to a file that serve obeys."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import click

from services.cli.fit import ENGINE_NAMES, engine_option
from services.cli.output import OutputFile, gib, json_option, print_json
from services.cli.plan_text import explanation_text, speed_text
from services.cli.report_text import report_text, workload_text
from services.cli.rig import rig_of_this_machine
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import Goal, decide
from services.sizing.plan_split import tensor_parallel_refusal
from services.sizing.planfile import dump_plan, to_json
from services.sizing.types import Card, Plan

_TENSOR_PARALLEL = re.compile(r"(?P<wish>.*)@tp(?P<ways>\d{1,3})", re.IGNORECASE)


def parse_wants(texts: tuple[str, ...]) -> list[tuple[str, int]] | None:
    """`("sdxl-turbo:1", "llama-3.1-8b-instruct")` -> [(model, copies)]; nothing asked for is None."""
    wants = []
    for text in texts:
        name, colon, count = text.rpartition(":")
        if not colon:
            name, count = text, "1"
        if not name.strip():
            raise click.BadParameter(f"{text!r} names no model", param_hint="--want")
        if not (count.isascii() and count.isdigit()) or not 1 <= int(count) <= 256:
            raise click.BadParameter(f"{text!r}: write MODEL or MODEL:COPIES, for example sdxl-turbo:2", param_hint="--want")
        wants.append((name, int(count)))
    return wants or None


@click.command(epilog='Example: rigserve plan --cards "P104-100 8GB:6,RTX 3060 Ti:2" --want llama-3.1-8b-instruct:2 --out plan.yaml')
@click.option("--cards", help='Plan for these cards instead of this machine\'s, as "P104-100 8GB@gen1x1:6,RTX 3060 Ti:2".')
@click.option("--host-ram", help="Host memory to plan for, as 8GiB. Default: this machine's.")
@click.option("--card-memory", help="Budget of the simulated CPU card, as 4GiB (only where no GPU is found).")
@click.option("--want", multiple=True, help="MODEL or MODEL:COPIES; may be repeated. Default: by --goal.")
@click.option("--goal", type=click.Choice([goal.value for goal in Goal]),
              help="quality: the best model on each card. throughput: the most tokens a second. coverage: every kind of work, then as many "
              "different models as possible. Default: quality; on a machine without GPUs its built-in models.")
@click.option("--on-demand", is_flag=True, help="Wishes that have no room beside the others share a card in turns, loaded when asked for.")
@click.option("--tensor-parallel", type=click.IntRange(1, 64), default=1, help="Refused above 1, with the measured reason.")
@engine_option
@click.option("--explain", is_flag=True, help="Say why each card got what it got: the points, and the runner-up.")
@click.option("--out", type=OutputFile(), help="Write the plan here; `rigserve serve` obeys plan.yaml.")
@json_option
def plan(cards: str | None, host_ram: str | None, card_memory: str | None, want: tuple[str, ...], goal: str | None, on_demand: bool,
         tensor_parallel: int, engine: str | None, explain: bool, out: Path | None, as_json: bool) -> None:
    """Decide which model runs on which card, and write it down.

    Exit code 0: a plan, its refusals listed in it. 1: nothing could be placed, or the plan can't be written. 2: the question can't be
    understood.
    """
    if want and goal:
        raise click.UsageError("--want names the models, --goal chooses them; give one of the two")
    if on_demand and not want:
        raise click.UsageError("--on-demand is about models that are named; give --want with it")
    rig = rig_of_this_machine(cards, card_memory, host_ram)
    wishes = parse_wants(_refuse_splitting(want, tensor_parallel, rig.cards))
    decision = decide(
        rig.host, rig.cards, load_catalogue(), want=wishes, engine=ENGINE_NAMES[engine] if engine else None,
        goal=Goal(goal) if goal else None, explained=explain, on_demand=on_demand,
    )
    decided = replace(decision.plan, notes=(*decision.plan.notes, *rig.notes))
    if out is not None:
        _write(out, dump_plan(decided))
    if as_json:
        print_json({**to_json(decided), "explanation": decision.explanation} if explain else decided)
    else:
        show_plan(decided)
        if explain:
            click.echo(explanation_text(decision.explanation))
        click.echo(f"written to {out}" if out else "nothing written: add --out plan.yaml to keep this plan")
    raise SystemExit(0 if decided.placements else 1)


def _refuse_splitting(want: tuple[str, ...], ways: int, cards: tuple[Card, ...]) -> tuple[str, ...]:
    """The wishes as they are, unless one of them (MODEL@tp2) or --tensor-parallel asks to split a model over cards."""
    asked = [ways] + [int(match["ways"]) for match in map(_TENSOR_PARALLEL.fullmatch, want) if match]
    if max(asked) > 1:
        raise click.ClickException(tensor_parallel_refusal(cards, max(asked)))
    return tuple(match["wish"] if (match := _TENSOR_PARALLEL.fullmatch(text)) else text for text in want)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf8")
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from error


def show_plan(decided: Plan) -> None:
    """A line for each card and each of its models, then why these engines, then the refusals with their arithmetic."""
    why: dict[str, list[str]] = {}
    for card in decided.cards:
        placements = [p for p in decided.placements if p.card_id == card.id]
        sizes = [p.report.need_bytes or 0 for p in placements]
        used = max(sizes) if any(p.on_demand for p in placements) else sum(sizes)
        label = "   simulated: true" if card.simulated else ""
        click.echo(f"{card.name} ({card.id}): {gib(used)} of {gib(card.total_bytes)} planned{label}")
        for p in placements:
            engine = p.choice.engine.value
            speed = speed_text(p.report.speed)
            click.echo(f"  {p.model_id}, {p.report.quant}, {engine}, {workload_text(p.workload)}: {gib(p.report.need_bytes)}{speed}"
                       f"{', on demand' if p.on_demand else ''}")
            for reason in p.choice.reasons:
                why.setdefault(reason, []).append(p.id)
        if not placements:
            click.echo("  nothing")
    for reason, ids in why.items():
        click.echo(f"because: {reason} ({', '.join(ids[:4])}{' ...' if len(ids) > 4 else ''})")
    for refusal in decided.refusals:
        click.echo(f"\nrefused: {refusal.model_id}")
        for report in refusal.reports:
            click.echo(report_text(report))
    for note in decided.notes:
        click.echo(f"note: {note}")
