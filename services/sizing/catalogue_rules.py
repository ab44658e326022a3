"""What must hold in a model file beyond the types: one sentence for each rule that is broken.

Paths and names end in download commands and folder names, so they are checked here, before anything trusts them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

from services.sizing.types import ModelSpec, Variant, WeightSource

ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LARGEST = 2**50
NEEDED = {
    "hub": ("repository", "revision", "files"),
    "pypi": ("package", "version", "files"),
    "repo": ("path",),
    "converted": ("converted_from",),
}


def broken_rules(model: ModelSpec, file_stem: str) -> Iterator[str]:
    """The rules that `model`, read from `file_stem`.yaml, breaks."""
    if not ID.fullmatch(model.id):
        yield f"id {model.id!r}: lower-case letters, digits, '.', '_' and '-' only"
    if model.id != file_stem:
        yield f"id {model.id!r} does not match the file name; call the file {model.id}.yaml"
    if (model.image is not None) != (model.kind == "image") or (model.text is not None) != (model.kind != "image"):
        yield f"kind {model.kind!r} needs exactly one geometry: `image` for image models, `text` for chat, embedding and rerank models"
    if not model.variants:
        yield "variants: at least one is needed"
    if not model.figures_source:
        yield "figures_source: say where the figures come from"
    if (model.quality is None) != (not model.quality_source):
        yield "quality and quality_source go together: a score and who published it"
    if model.quality is not None and not 0 < model.quality <= 100:
        yield f"quality: {model.quality} is not a score in percent"
    yield from _twice("alias", [alias.casefold() for alias in (model.id, *model.aliases)])
    yield from _twice("variant id", [variant.id for variant in model.variants])
    yield from _out_of_range(model)
    for variant in model.variants:
        for sentence in _broken_variant(model, variant):
            yield f"variant {variant.id!r}: {sentence}"


def _broken_variant(model: ModelSpec, variant: Variant) -> Iterator[str]:
    source = variant.source
    if not ID.fullmatch(variant.id):
        yield "the id may hold lower-case letters, digits, '.', '_' and '-' only"
    if (variant.format == "diffusers") != (model.kind == "image") and variant.format != "gguf":
        yield f"format {variant.format!r} does not go with kind {model.kind!r}"
    if not variant.figures_source:
        yield "figures_source: say where the figures come from"
    if variant.weight_bytes == 0 or variant.file_bytes == 0:
        yield "0 bytes is not a size; leave an unknown size out"
    yield from _out_of_range(variant)
    for name in NEEDED[source.kind]:
        if not getattr(source, name):
            yield f"source kind {source.kind!r} needs `{name}`"
    if source.kind == "converted" and source.converted_from not in {v.id for v in model.variants if v.source.kind != "converted"}:
        yield f"converted_from {source.converted_from!r} is not a downloadable variant of this model"
    yield from _broken_names(source)


def _broken_names(source: WeightSource) -> Iterator[str]:
    if source.repository is not None and not REPOSITORY.fullmatch(source.repository):
        yield f"repository {source.repository!r} is not of the form owner/name"
    for path in (*source.files, *([source.path] if source.path else [])):
        if path.startswith(("/", "~")) or ".." in path.split("/") or "\\" in path or not path.isprintable():
            yield f"{path!r} is not a path inside the source"
        if path.casefold().endswith(PICKLED):
            yield f"{path!r} is a pickle, which can run code when it is opened; name safetensors or GGUF files"
    if source.sha256 and len(source.sha256) != len(source.files):
        yield "sha256 needs one digest for each of `files`, in the same order"
    for digest in source.sha256:
        if not SHA256.fullmatch(digest):
            yield f"sha256 {digest!r} is not 64 lower-case hex digits"


def _twice(what: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} {name!r} is given {count} times"


def _out_of_range(value: object) -> Iterator[str]:
    """No quantity of the catalogue is negative or beyond 2**50 (a petabyte); geometry is checked one level down."""
    parts = [value, *(part for part in (getattr(value, "text", None), getattr(value, "image", None)) if part is not None)]
    for part in parts:
        for field in fields(part):
            number = getattr(part, field.name)
            if isinstance(number, int | float) and not 0 <= number <= LARGEST:
                yield f"{field.name}: {number} is not between 0 and 2**50"
