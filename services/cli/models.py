"""`rigserve models`: the catalogue, or what one card can serve of it."""

from __future__ import annotations

import click
from rich.table import Table

from services.cli.output import console, gib, json_option, print_json
from services.cli.rig import rig_of_this_machine
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit
from services.sizing.types import FitReport


@click.command(epilog='Example: rigserve models --card "P106-100"')
@click.option("--card", help="Only what this card can serve, best first, with predicted speed.")
@json_option
def models(card: str | None, as_json: bool) -> None:
    """List the models that rigserve knows."""
    catalogue = load_catalogue()
    if card is None:
        if as_json:
            print_json(catalogue.models)
            return
        table = Table("model", "kind", "parameters", "variants", "licence")
        for model in catalogue.models:
            params = f"{model.params / 1e9:.2f} B" if model.params else "unknown"
            table.add_row(model.id, model.kind, params, ", ".join(v.quant for v in model.variants), model.licence)
        console().print(table)
        return
    rig = rig_of_this_machine(cards_text=card)
    reports = [fit(rig.cards[0], model, rig.host, catalogue=None) for model in catalogue.models]
    quality = {model.id: model.quality or 0.0 for model in catalogue.models}
    fitting = sorted((r for r in reports if r.fits), key=lambda r: quality[r.model_id], reverse=True)
    if as_json:
        print_json(fitting)
    else:
        console().print(_fitting_table(fitting) if fitting else f"No model of the catalogue fits {rig.cards[0].name}.")


def _fitting_table(reports: list[FitReport]) -> Table:
    table = Table("model", "quant", "engine", "verdict", "need", "headroom", "predicted speed")
    for r in reports:
        speed = "unknown"
        if r.speed and r.speed.decode_tok_s:
            speed = f"{r.speed.decode_tok_s:.0f} tok/s"
        elif r.speed and r.speed.images_per_min:
            speed = f"{r.speed.images_per_min:.1f} images/min"
        engine = r.choice.engine.value if r.choice else "none"
        table.add_row(r.model_id, r.quant, engine, r.verdict.value, gib(r.need_bytes), gib(r.headroom_bytes), speed)
    return table
