"""`rigserve plan`: which model goes on which card, written to a file that serve obeys."""

from __future__ import annotations

from pathlib import Path

import click

from services.cli.fit import ENGINE_NAMES, engine_option
from services.cli.output import gib, json_option, print_json
from services.cli.report_text import report_text, workload_text
from services.cli.rig import rig_of_this_machine
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan
from services.sizing.types import Plan


def parse_wants(texts: tuple[str, ...]) -> list[tuple[str, int]] | None:
    """`("sdxl-turbo:1", "llama-3.1-8b-instruct")` -> [(model, copies)]; nothing asked for is None."""
    wants = []
    for text in texts:
        name, colon, count = text.rpartition(":")
        if not colon:
            name, count = text, "1"
        if not count.isdigit() or not 1 <= int(count) <= 256:
            raise click.BadParameter(f"{text!r}: write MODEL or MODEL:COPIES, for example sdxl-turbo:2", param_hint="--want")
        wants.append((name, int(count)))
    return wants or None


@click.command(epilog='Example: rigserve plan --cards "P104-100 8GB:6,RTX 3060 Ti:2" --want llama-3.1-8b-instruct:2 --out plan.yaml')
@click.option("--cards", help='Plan for these cards instead of this machine\'s, as "P104-100 8GB:6,RTX 3060 Ti:2".')
@click.option("--host-ram", help="Host memory to plan for, as 8GiB. Default: this machine's.")
@click.option("--card-memory", help="Budget of the simulated CPU card, as 4GiB (only where no GPU is found).")
@click.option("--want", multiple=True, help="MODEL or MODEL:COPIES; may be repeated. Default: a sensible choice for the cards.")
@engine_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the plan here; `rigserve serve` obeys plan.yaml.")
@json_option
def plan(cards: str | None, host_ram: str | None, card_memory: str | None, want: tuple[str, ...], engine: str | None, out: Path | None,
         as_json: bool) -> None:
    """Decide which model runs on which card, and write it down."""
    rig = rig_of_this_machine(cards, card_memory, host_ram)
    decided = make_plan(rig.host, rig.cards, load_catalogue(), want=parse_wants(want), engine=ENGINE_NAMES[engine] if engine else None)
    if out is not None:
        out.write_text(dump_plan(decided), encoding="utf8")
    if as_json:
        print_json(decided)
        return
    show_plan(decided)
    for note in rig.notes:
        click.echo(f"note: {note}")
    click.echo(f"written to {out}" if out else "nothing written: add --out plan.yaml to keep this plan")


def show_plan(decided: Plan) -> None:
    """Per card what it serves and why, then the refusals with their arithmetic."""
    for card in decided.cards:
        placements = [p for p in decided.placements if p.card_id == card.id]
        used = sum(p.report.need_bytes or 0 for p in placements)
        label = "   simulated: true" if card.simulated else ""
        click.echo(f"{card.name} ({card.id}): {gib(used)} of {gib(card.total_bytes)} planned{label}")
        for p in placements:
            engine = p.choice.engine.value
            click.echo(f"  {p.model_id}, {p.report.quant}, {engine}, {workload_text(p.workload)}: {gib(p.report.need_bytes)}")
            for reason in p.choice.reasons:
                click.echo(f"    because: {reason}")
        if not placements:
            click.echo("  nothing")
    for refusal in decided.refusals:
        click.echo(f"\nrefused: {refusal.model_id}")
        for report in refusal.reports:
            click.echo(report_text(report))
    for note in decided.notes:
        click.echo(f"note: {note}")
