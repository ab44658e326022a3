"""`rigserve fetch`: all downloads and installs of a plan, and nothing else. The only step that needs the network."""

from __future__ import annotations

from pathlib import Path

import click

from services.cli.fit import ENGINE_NAMES, engine_option
from services.cli.prepare import chosen_plan, fetch_weights, prepare

PROJECT = Path(__file__).parents[2]


@click.command(epilog="Example: rigserve fetch --plan plan.yaml")
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Fetch for this plan. Default: ./plan.yaml where there is one, else a plan made now for this machine.")
@click.option("--want", multiple=True, help="MODEL or MODEL:COPIES for a plan made now; may be repeated.")
@click.option("--weights-only", is_flag=True, help="Install no engine: what the one-shot fetch container of an engine's image does.")
@click.option("--environment", help="Only for the placements of this engine environment, as llamacpp-cuda12.")
@engine_option
def fetch(plan_file: Path | None, want: tuple[str, ...], weights_only: bool, environment: str | None, engine: str | None) -> None:
    """Install the engines and fetch the weights of a plan, so that `serve` starts without the network."""
    obeyed, plan = chosen_plan(plan_file, PROJECT / "run" / "plan-fetch.yaml", want, None, ENGINE_NAMES[engine] if engine else None)
    used = sorted({placement.choice.environment for placement in plan.placements})
    if environment is not None and environment not in used:
        raise click.BadParameter(f"{obeyed} uses no {environment}; it uses {', '.join(used) or 'none'}", param_hint="--environment")
    for ready in fetch_weights(plan, environment) if weights_only else prepare(plan, environment):
        click.echo(f"{ready.placement.model_id}: {ready.weights}")
    what = f"all that {obeyed} needs" if environment is None else f"what the {environment} placements of {obeyed} need"
    click.echo(f"{what}{' (weights only)' if weights_only else ''} is on this machine")
