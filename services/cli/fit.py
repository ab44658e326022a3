"""`rigserve fit`: the fit answer for one model, or for a file of cases."""

from __future__ import annotations

import json
from pathlib import Path

import click

from services.cli.output import json_option, print_json
from services.cli.report_text import report_text
from services.cli.rig import rig_of_this_machine
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit as fit_model
from services.sizing.types import Engine, ImageWorkload, ModelSpec, TextWorkload, Workload

ENGINE_NAMES = {"vllm": Engine.VLLM, "llamacpp": Engine.LLAMACPP, "llama.cpp": Engine.LLAMACPP, "diffusers": Engine.DIFFUSERS}
engine_option = click.option("--engine", type=click.Choice(sorted(ENGINE_NAMES)), help="Use this engine or say why not.")


@click.command(epilog='Example: rigserve fit llama-3.1-8b-instruct --card "RTX 3060 Ti" --context 8192 --json')
@click.argument("model", required=False)
@click.option("--card", "--cards", "cards", help='A card or a rig, as "P104-100 8GB:6,RTX 3060 Ti:2". Default: this machine.')
@click.option("--quant", help="A variant id or quantization of the model, for example Q4_K_M or bnb-nf4.")
@click.option("--context", "context_tokens", type=click.IntRange(1, 2**24), help="Context length in tokens.")
@click.option("--sequences", type=click.IntRange(1, 4096), help="Requests held at the same time.")
@click.option("--size", help="Image size in pixels, as 512x512.")
@click.option("--batch-size", type=click.IntRange(1, 256), help="Images made at once.")
@engine_option
@click.option("--batch", "batch_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A JSONL file of cases; prints one JSON report a line.")
@json_option
def fit(model: str | None, cards: str | None, quant: str | None, context_tokens: int | None, sequences: int | None, size: str | None,
        batch_size: int | None, engine: str | None, batch_file: Path | None, as_json: bool) -> None:
    """Does MODEL fit, with the arithmetic. Exit code 1 when it fits no card."""
    if batch_file is not None:
        _batch(batch_file)
        return
    if model is None:
        raise click.UsageError('name a model (see `rigserve models`) or give --batch FILE')
    catalogue = load_catalogue()
    spec = catalogue.get(model)
    rig = rig_of_this_machine(cards_text=cards)
    workload = _workload(spec, context_tokens, sequences, size, batch_size)
    reports = [
        fit_model(card, spec, rig.host, variant_id=_variant_id(spec, quant), workload=workload,
                  engine=ENGINE_NAMES[engine] if engine else None, catalogue=catalogue)
        for card in rig.cards
    ]
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    else:
        click.echo("\n\n".join(report_text(r) for r in reports))
    raise SystemExit(0 if any(r.fits for r in reports) else 1)


def _variant_id(model: ModelSpec, wish: str | None) -> str | None:
    if wish is None:
        return None
    for variant in model.variants:
        if wish.lower() in (variant.id.lower(), variant.quant.lower()):
            return variant.id
    known = ", ".join(sorted({v.quant for v in model.variants}))
    raise click.BadParameter(f"{model.id} has no variant {wish!r}; it has {known}", param_hint="--quant")


def _workload(model: ModelSpec, context: int | None, sequences: int | None, size: str | None, batch: int | None) -> Workload | None:
    if model.kind == "image":
        if size is None and batch is None:
            return None
        native = model.image.native_px if model.image else 512
        try:
            width, height = (int(x) for x in (size or f"{native}x{native}").lower().split("x"))
        except ValueError:
            raise click.BadParameter(f"{size!r} is not a size; write for example 512x512", param_hint="--size") from None
        if min(width, height) < 8 or max(width, height) > 2**16:
            raise click.BadParameter("each side must be between 8 and 65536 pixels", param_hint="--size")
        return ImageWorkload(width, height, batch or 1)
    if context is None and sequences is None:
        return None
    limit = model.text.max_position_embeddings if model.text else 4096
    return TextWorkload(context or min(4096, limit), sequences or 1)


def _batch(path: Path) -> None:
    """One JSON line per case, in the order of the file; a bad line becomes an error line, never the end of the run."""
    from services.sizing.cases import evaluate  # its table of geometries is read on import; no other command needs it

    for number, line in enumerate(path.read_text(encoding="utf8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            case = json.loads(line)
        except ValueError as error:
            click.echo(json.dumps({"id": None, "error": f"line {number} is not JSON: {error}"}))
            continue
        if not isinstance(case, dict):
            click.echo(json.dumps({"id": None, "error": f"line {number} is not a JSON object"}))
            continue
        click.echo(json.dumps(evaluate(case)))
