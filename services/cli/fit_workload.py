"""The workload that the options of `rigserve fit` ask for."""

from __future__ import annotations

import math
import re

import click

from services.sizing.types import ImageGeometry, ImageWorkload, ModelSpec, TextWorkload, Workload

LARGEST_SIDE_PX = 2**16
USUAL_CONTEXT_TOKENS = 4096
USUAL_LORA_RANK = 16  # vLLM's own --max-lora-rank
_SIDES = re.compile(r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*", re.ASCII)


def workload_of(
    model: ModelSpec, context_tokens: int | None, sequences: int | None, size: str | None, batch_size: int | None,
    lora_slots: int | None = None, lora_rank: int | None = None,
) -> tuple[Workload | None, tuple[str, ...]]:
    """The workload (None: the usual one), and notes on what was not used or not taken as it was written. Raises BadParameter."""
    if model.image is not None:
        text = (("--context", context_tokens), ("--sequences", sequences), ("--lora-slots", lora_slots), ("--lora-rank", lora_rank))
        notes = _not_used(model, text)
        if size is None and batch_size is None:
            return None, notes
        workload, more = _image(model.id, model.image, size, batch_size or 1)
        return workload, notes + more
    notes = _not_used(model, (("--size", size), ("--batch-size", batch_size)))
    if lora_rank is not None and lora_slots is None:
        raise click.BadParameter("say how many adapters with --lora-slots", param_hint="--lora-rank")
    if context_tokens is None and sequences is None and lora_slots is None:
        return None, notes
    limit = model.text.max_position_embeddings if model.text else USUAL_CONTEXT_TOKENS
    context_tokens = context_tokens or min(USUAL_CONTEXT_TOKENS, limit)
    return TextWorkload(context_tokens, sequences or 1, lora_slots=lora_slots or 0, lora_rank=lora_rank or USUAL_LORA_RANK), notes


def _not_used(model: ModelSpec, options: tuple[tuple[str, int | str | None], ...]) -> tuple[str, ...]:
    given = [name for name, value in options if value is not None]
    makes = {"image": "images", "embedding": "embeddings", "chat": "text"}[model.kind]
    return (f"{' and '.join(given)} not used: {model.id} makes {makes}",) if given else ()


def _image(name: str, image: ImageGeometry, size: str | None, batch: int) -> tuple[ImageWorkload, tuple[str, ...]]:
    """Sides that the pipeline can't draw become the next larger ones that it can, so that nothing is sized too small."""
    if size is None:
        return ImageWorkload(image.native_px, image.native_px, batch), ()
    match = _SIDES.fullmatch(size)
    if match is None:
        raise click.BadParameter(f"{size[:40]!r} is not a size; write for example 512x512", param_hint="--size")
    asked = int(match[1]), int(match[2])
    if min(asked) < 8 or max(asked) > LARGEST_SIDE_PX:
        raise click.BadParameter(f"each side must be between 8 and {LARGEST_SIDE_PX} pixels", param_hint="--size")
    width, height = (math.ceil(side / image.multiple_px) * image.multiple_px for side in asked)
    if (width, height) == asked:
        return ImageWorkload(width, height, batch), ()
    note = f"{asked[0]}x{asked[1]} px was sized as {width}x{height} px: the sides that {name} draws are multiples of {image.multiple_px} px"
    return ImageWorkload(width, height, batch), (note,)
