"""What a placement needs of this machine: its row of the catalogue, its weights, its engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from services.provision import environments, weights
from services.provision.cache import folder_of
from services.sizing.catalogue import Catalogue
from services.sizing.types import Engine, ModelSpec, Placement, Variant


class MissingPiece(click.ClickException):
    """Something that the placement needs is not there."""

    exit_code = 2


def in_catalogue(catalogue: Catalogue, placement: Placement) -> tuple[ModelSpec, Variant]:
    """The model and variant that the plan names. Raises UnknownModelError or MissingPiece."""
    model = catalogue.get(placement.model_id)
    for variant in model.variants:
        if variant.id == placement.variant_id:
            return model, variant
    known = ", ".join(v.id for v in model.variants)
    raise MissingPiece(f"the catalogue has no variant {placement.variant_id!r} of {model.id}, as the plan says; it has {known}")


def own_program(placement: Placement) -> str | None:
    """A llama-server of the user's own on the PATH, for llama.cpp on a GPU: it was built for this machine."""
    name = placement.choice.environment
    return shutil.which("llama-server") if placement.choice.engine is Engine.LLAMACPP and name != "llamacpp-cpu" else None


def engine_here(placement: Placement) -> tuple[str, str]:
    """The worker's flag for the engine that is installed. Raises MissingPiece; installs nothing."""
    if own := own_program(placement):
        return ("--engine-binary", own)
    name = placement.choice.environment
    python = environments.python_of(name)
    if python is None:
        raise MissingPiece(
            f"the engine environment {name} of placement {placement.id} is not whole in {environments.Home().venvs}: run `rigserve fetch` "
            "with this plan, or in a container use the image of this environment (docs/images.md)"
        )
    return ("--engine-python", str(python))


def weights_here(model: ModelSpec, variant: Variant, plan_file: Path) -> Path:
    """The complete weights. Raises MissingPiece; fetches nothing."""
    found = weights.located(model, variant)
    if found is None:
        raise MissingPiece(
            f"the weights of {model.id} ({variant.id}) are not complete in {folder_of(model.id, variant.id).path}: "
            f"run `rigserve fetch --plan {plan_file} --weights-only` first (in containers: the fetch service)"
        )
    return found
