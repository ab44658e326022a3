"""From a plan to a disk that holds all it needs: which plan is obeyed, engine environments, weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from services.cli.bars import progress
from services.cli.placed import in_catalogue, own_program
from services.cli.plan import parse_wants
from services.cli.rig import rig_of_this_machine
from services.provision import environments, weights
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan, load_plan
from services.sizing.types import Engine, ModelSpec, Placement, Plan, Variant


@dataclass(frozen=True, slots=True)
class Prepared:
    """A placement whose weights are on disk, and its engine too where `engine` (the worker's flags that name it) is not empty."""

    placement: Placement
    engine: tuple[str, ...]
    weights: Path


def chosen_plan(
    given: Path | None, written: Path, want: tuple[str, ...], card_memory: str | None, engine: Engine | None
) -> tuple[Path, Plan]:
    """1. --plan. 2. ./plan.yaml (then nothing may be asked for beside it). 3. A plan made now, written down before it is obeyed."""
    path = given or (Path("plan.yaml") if Path("plan.yaml").is_file() else None)
    if path is not None:  # 1, 2
        if want or card_memory or engine:
            raise click.UsageError(f"{path} already says what runs where; move it away, or plan anew: rigserve plan ... --out {path}")
        return path.resolve(), load_plan(path)
    rig = rig_of_this_machine(card_memory=card_memory)  # 3
    for note in rig.notes:
        click.echo(f"note: {note}")
    plan = make_plan(rig.host, rig.cards, load_catalogue(), want=parse_wants(want), engine=engine)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(dump_plan(plan), encoding="utf8")
    return written, load_plan(written)


def prepare(plan: Plan, environment: str | None = None) -> list[Prepared]:
    """Engine and weights, with progress, of the placements of one engine environment or (None) of all; nothing is started before all of
    it is there."""
    catalogue = load_catalogue()
    prepared = []
    for placement in _of(plan, environment):
        model, variant = in_catalogue(catalogue, placement)
        engine = _engine(placement)
        prepared.append(Prepared(placement, engine, _weights(placement, model, variant)))
    return prepared


def fetch_weights(plan: Plan, environment: str | None) -> list[Prepared]:
    """The weights alone; an engine is installed only where it converts them."""
    catalogue = load_catalogue()
    return [Prepared(placement, (), _weights(placement, *in_catalogue(catalogue, placement))) for placement in _of(plan, environment)]


def _of(plan: Plan, environment: str | None) -> list[Placement]:
    return [placement for placement in plan.placements if environment in (None, placement.choice.environment)]


def _weights(placement: Placement, model: ModelSpec, variant: Variant) -> Path:
    with progress(f"weights of {model.id} ({variant.quant})") as sink:
        return weights.ensure(model, variant, sink, environment=placement.choice.environment)


def _engine(placement: Placement) -> tuple[str, str]:
    """The user's own program where there is one, else the engine's environment, made when it is not there."""
    if own := own_program(placement):
        click.echo(f"{placement.id}: using {own}")
        return ("--engine-binary", own)
    name = placement.choice.environment
    with progress(f"engine environment {name}") as sink:
        return ("--engine-python", str(environments.ensure(name, sink)))
