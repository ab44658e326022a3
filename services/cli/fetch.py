"""`rigserve fetch`: all downloads and installs of a plan, and nothing else. The only step that needs the network."""

from __future__ import annotations

from pathlib import Path

import click

from services.cli.fit import ENGINE_NAMES, engine_option
from services.cli.prepare import chosen_plan, prepare
from services.cli.stack import PROJECT


@click.command(epilog="Example: rigserve fetch --plan plan.yaml")
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Fetch for this plan. Default: ./plan.yaml where there is one, else a plan made now for this machine.")
@click.option("--want", multiple=True, help="MODEL or MODEL:COPIES for a plan made now; may be repeated.")
@engine_option
def fetch(plan_file: Path | None, want: tuple[str, ...], engine: str | None) -> None:
    """Install the engines and fetch the weights of a plan, so that `serve` starts without the network."""
    obeyed, plan = chosen_plan(plan_file, PROJECT / "run" / "plan-fetch.yaml", want, None, ENGINE_NAMES[engine] if engine else None)
    for ready in prepare(plan):
        click.echo(f"{ready.placement.model_id}: {ready.weights}")
    click.echo(f"all that {obeyed} needs is on this machine")
