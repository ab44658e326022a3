"""`rigserve fit`: the fit answer for one model, or for a file of cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from services.cli.fit_batch import answers
from services.cli.fit_workload import workload_of
from services.cli.named_model import named_model
from services.cli.output import json_option, print_json
from services.cli.report_text import report_text
from services.cli.rig import rig_of_this_machine
from services.sizing.catalogue import load_catalogue
from services.sizing.fit import fit as fit_model
from services.sizing.planfile import to_json
from services.sizing.types import Engine, FitReport, ModelSpec

ENGINE_NAMES = {"vllm": Engine.VLLM, "llamacpp": Engine.LLAMACPP, "llama.cpp": Engine.LLAMACPP, "diffusers": Engine.DIFFUSERS}
engine_option = click.option("--engine", type=click.Choice(sorted(ENGINE_NAMES)), help="Use this engine or say why not.")


@click.command(epilog='Example: rigserve fit llama-3.1-8b-instruct --card "RTX 3060 Ti" --context 8192 --json')
@click.argument("model", required=False)
@click.option("--card", "--cards", "cards", help='A card or a rig, as "P104-100 8GB:6,RTX 3060 Ti:2". Default: this machine.')
@click.option("--host-ram", help="Host memory to ask for, as 8GiB. Default: this machine's.")
@click.option("--quant", help="A variant id or quantization of the model, for example Q4_K_M, awq or bnb-nf4.")
@click.option("--context", "context_tokens", type=click.IntRange(1, 2**24), help="Context length in tokens.")
@click.option("--sequences", type=click.IntRange(1, 4096), help="Requests held at the same time.")
@click.option("--lora-slots", type=click.IntRange(1, 256), help="LoRA adapters held at the same time.")
@click.option("--lora-rank", type=click.IntRange(1, 512), help="Highest rank of those adapters. Default: 16.")
@click.option("--size", help="Image size in pixels, as 512x512.")
@click.option("--batch-size", type=click.IntRange(1, 256), help="Images made at once.")
@engine_option
@click.option("--batch", "batch_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A JSONL file of cases instead of MODEL; prints one JSON report a line.")
@json_option
def fit(model: str | None, cards: str | None, host_ram: str | None, quant: str | None, context_tokens: int | None, sequences: int | None,
        lora_slots: int | None, lora_rank: int | None, size: str | None, batch_size: int | None, engine: str | None,
        batch_file: Path | None, as_json: bool) -> None:
    """Does MODEL fit, with the arithmetic. MODEL is a name of `rigserve models` (or its Hugging Face name), a folder or file of weights
    here (./folder, ./model.gguf), or hf:OWNER/NAME[:FILE] to read the headers of a repository.

    Exit code 0: it fits a card. 1: it fits none. 2: the question can't be understood. With --batch: 0, whatever the answers.
    """
    if batch_file is not None:
        others = (model, cards, host_ram, quant, context_tokens, sequences, lora_slots, lora_rank, size, batch_size, engine)
        if any(value is not None for value in others):
            raise click.UsageError("--batch takes everything from its file; give no MODEL and no other option with it")
        for line in answers(batch_file):
            click.echo(line)
        return
    if model is None:
        raise click.UsageError("name a model (see `rigserve models`) or give --batch FILE")
    catalogue = load_catalogue()
    spec = named_model(model, catalogue)
    rig = rig_of_this_machine(cards, host_ram=host_ram)
    asked, notes = workload_of(spec, context_tokens, sequences, size, batch_size, lora_slots, lora_rank)
    variant_id = _variant_id(spec, quant, ENGINE_NAMES[engine] if engine else None)
    reports = [
        fit_model(card, spec, rig.host, variant_id=variant_id, workload=asked, engine=ENGINE_NAMES[engine] if engine else None,
                  catalogue=catalogue)
        for card in rig.cards
    ]
    _show(reports, (*notes, *_made(spec, reports), *rig.notes), as_json)
    raise SystemExit(0 if any(r.fits for r in reports) else 1)


def _made(model: ModelSpec, reports: list[FitReport]) -> tuple[str, ...]:
    """Says where an answer is about files that are not there yet."""
    chosen = {report.variant_id for report in reports}
    made = [variant for variant in model.variants if variant.id in chosen and variant.source.kind == "converted"]
    return tuple(f"{variant.quant} is not in the files: {variant.figures_source}" for variant in made)


def _show(reports: list[FitReport], notes: Iterable[str], as_json: bool) -> None:
    """One document: a report for one card, a list of them for a rig. As text, cards with the same answer are one report."""
    if as_json:
        whole = [{**to_json(report), "notes": list(notes)} for report in reports]
        print_json(whole[0] if len(whole) == 1 else whole)
        return
    for index, (text, cards) in enumerate(Counter(report_text(report) for report in reports).items()):
        click.echo(f"{chr(10) if index else ''}{text.replace(chr(10), f' (each of {cards} cards){chr(10)}', 1) if cards > 1 else text}")
    for note in notes:
        click.echo(f"note: {note}")


def _variant_id(model: ModelSpec, wish: str | None, engine: Engine | None) -> str | None:
    """1. The variant of that id. 2. Of that quantization, or of one that begins with it where those are all the same ("awq"); of several
    the one that the engine asked for can read."""
    if wish is None:
        return None
    asked = wish.strip().lower()
    # 1
    for variant in model.variants:
        if asked == variant.id.lower():
            return variant.id
    # 2
    same = [variant for variant in model.variants if asked == variant.quant.lower()]
    alike = same or [variant for variant in model.variants if asked and variant.quant.lower().startswith(asked)]
    reads = {Engine.VLLM: "safetensors", Engine.LLAMACPP: "gguf", Engine.DIFFUSERS: "diffusers"}
    mine = [variant for variant in alike if engine is None or variant.format == reads[engine]] or alike
    if mine and len({variant.quant for variant in mine}) == 1:
        return mine[0].id
    known = ", ".join(sorted({variant.quant for variant in model.variants}))
    several = f"{wish[:60]!r} could be {' or '.join(sorted({variant.quant for variant in mine}))}" if mine else ""
    raise click.BadParameter(several or f"{model.id} has no variant {wish[:60]!r}; it has {known}", param_hint="--quant")
