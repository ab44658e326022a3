"""From a plan to a disk that holds all it needs: which plan is obeyed, engine environments, weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import click

from services.cli.bars import progress
from services.cli.plan import parse_wants
from services.cli.rig import rig_of_this_machine
from services.provision import environments, weights
from services.sizing.catalogue import Catalogue, load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan, load_plan
from services.sizing.types import Engine, ModelSpec, Placement, Plan, Variant


@dataclass(frozen=True, slots=True)
class Prepared:
    """A placement whose engine and weights are on disk. `engine` are the worker's flags that name the engine."""

    placement: Placement
    engine: tuple[str, str]
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


def prepare(plan: Plan) -> list[Prepared]:
    """Engine and weights of every placement, with progress; nothing is started before all of it is there."""
    catalogue = load_catalogue()
    prepared = []
    for placement in plan.placements:
        model, variant = _in_catalogue(catalogue, placement)
        engine = _engine(placement)
        with progress(f"weights of {model.id} ({variant.quant})") as sink:
            folder = weights.ensure(model, variant, sink, environment=placement.choice.environment)
        prepared.append(Prepared(placement, engine, folder))
    return prepared


def _engine(placement: Placement) -> tuple[str, str]:
    """1. llama.cpp on a GPU, and a llama-server of the user's own is on the PATH: that one, it was built for this machine.
    2. The engine's environment, made when it is not there."""
    name = placement.choice.environment
    own = shutil.which("llama-server")
    if own and placement.choice.engine is Engine.LLAMACPP and name != "llamacpp-cpu":  # 1
        click.echo(f"{placement.id}: using {own}")
        return ("--engine-binary", own)
    with progress(f"engine environment {name}") as sink:  # 2
        return ("--engine-python", str(environments.ensure(name, sink)))


def _in_catalogue(catalogue: Catalogue, placement: Placement) -> tuple[ModelSpec, Variant]:
    model = catalogue.get(placement.model_id)
    for variant in model.variants:
        if variant.id == placement.variant_id:
            return model, variant
    known = ", ".join(v.id for v in model.variants)
    raise click.ClickException(f"the catalogue has no variant {placement.variant_id!r} of {model.id}, as the plan says; it has {known}")
