"""`rigserve models`: the catalogue, or what one card can serve of it."""

from __future__ import annotations

from dataclasses import replace

import click

from services.cli.columns import aligned
from services.cli.model_orders import ORDERS, order_command
from services.cli.output import gib, json_option, print_json
from services.cli.report_text import workload_text
from services.cli.rig import rig_of_this_machine
from services.sizing.advise import servable
from services.sizing.catalogue import Catalogue, load_catalogue
from services.sizing.plan_goals import work_of
from services.sizing.planfile import to_json
from services.sizing.types import Card, FitReport, Speed


@click.group(invoke_without_command=True, epilog='Example: rigserve models --card "P106-100"')
@click.option("--card", help="Only what this card can serve, best first, with predicted speed.")
@click.option("--host-ram", help="Host memory to ask for, as 8GiB. Default: this machine's.")
@json_option
@click.pass_context
def models(context: click.Context, card: str | None, host_ram: str | None, as_json: bool) -> None:
    """List the models that rigserve knows, or with --card what that card can serve: within each kind of work first what it serves well
    (the usual workload, uncut), then by quality, then by predicted speed.

    Exit code 0: listed, even if nothing fits. 2: the question can't be understood. The commands are orders to a running gateway about
    models that are loaded on demand.
    """
    if context.invoked_subcommand is not None:
        return
    catalogue = load_catalogue()
    if card is None:
        if host_ram is not None:
            raise click.UsageError("--host-ram says what a card can serve; give --card with it")
        if as_json:
            print_json(catalogue.models)
        else:
            _show_catalogue(catalogue)
        return
    rig = rig_of_this_machine(cards_text=card, host_ram=host_ram)
    if len({replace(one, id="", index=None) for one in rig.cards}) > 1:
        raise click.UsageError("--card takes one kind of card; `rigserve advise --cards` compares several")
    reports = servable(rig.cards[0], rig.host, catalogue)
    if as_json:
        print_json([{**to_json(report), "notes": list(rig.notes)} for report in reports])
    else:
        _show_servable(catalogue, rig.cards[0], reports)
        for note in rig.notes:
            click.echo(f"note: {note}")


for _what, _about in ORDERS.items():
    models.add_command(order_command(_what, _about))


def _show_catalogue(catalogue: Catalogue) -> None:
    rows = [("model", "kind", "parameters", "licence", "variants")]
    for model in catalogue.models:
        variants = ", ".join(variant.id if model.image else variant.quant for variant in model.variants)
        rows.append((model.id, model.kind, _billions(model.params), model.licence, variants))
    click.echo("\n".join(aligned(rows)))


def _show_servable(catalogue: Catalogue, card: Card, reports: tuple[FitReport, ...]) -> None:
    label = "   simulated: true" if card.simulated else ""
    click.echo(f"{card.name} ({gib(card.total_bytes)} usable): {len(reports)} of {len(catalogue.models)} models, best first{label}")
    if not reports:
        click.echo("No model of the catalogue fits; `rigserve fit MODEL --card ...` says by how much.")
    known = {model.id: model for model in catalogue.models}
    notes: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    for report in reports:
        model = known[report.model_id]
        basis = report.speed.basis if report.speed else ""
        mark = f"[{notes.setdefault(basis, len(notes) + 1)}]" if basis else ""
        engine = report.choice.engine.value if report.choice else "none"
        rows.append((work_of(model), model.id, _billions(model.params), f"{report.quant} by {engine}", report.verdict.value,
                     f"{gib(report.need_bytes)}, {_room(report)}", workload_text(report.workload),
                     f"{predicted(report.speed)} {mark}"))
    for work in dict.fromkeys(row[0] for row in rows):
        click.echo(f"\n{work}")
        click.echo("\n".join(f"  {line}" for line in aligned([row[1:] for row in rows if row[0] == work])))
    if notes:
        click.echo()
    for basis, number in notes.items():
        click.echo(f"[{number}] {basis}")


def predicted(speed: Speed | None) -> str:
    """A predicted speed in the unit of its work, or `unknown`."""
    if speed is not None and speed.decode_tok_s is not None:
        return f"~{speed.decode_tok_s:.1f} tok/s"
    if speed is not None and speed.images_per_min is not None:
        return f"~{speed.images_per_min:.1f} images/min"
    if speed is not None and speed.prefill_tok_s is not None:
        return f"~{speed.prefill_tok_s:,.0f} tok/s read"
    return "unknown"


def _room(report: FitReport) -> str:
    spare = report.headroom_bytes
    return f"{gib(spare)} to spare" if spare is None or spare >= 0 else f"{gib(-spare)} into its margin"


def _billions(params: int | None) -> str:
    if not params:
        return "unknown"
    return f"{params / 1e9:.2f} B" if params >= 1e7 else f"{params / 1e6:.2f} M"
