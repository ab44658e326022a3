"""One entry for any checkpoint: decide what the files are, read the headers, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.sizing.checkpoint import (
    MAX_FOLDER_FILES,
    PICKLED,
    SPLIT,
    Checkpoint,
    CheckpointError,
    Files,
    LocalFolder,
    TensorInfo,
    parts_of,
    reader_of,
)
from services.sizing.checkpoint_config import geometry_of_config, quant_of_config
from services.sizing.checkpoint_diffusers import is_diffusers, read_diffusers
from services.sizing.checkpoint_gguf import read_gguf
from services.sizing.checkpoint_gguf_geometry import geometry_of_gguf, quant_of_gguf
from services.sizing.checkpoint_json import MAX_CONFIG_BYTES, parse_object
from services.sizing.checkpoint_safetensors import read_safetensors

_VISION = ("visual.", "vision_tower.", "vision_model.", "multi_modal_projector.", "embed_vision.", "audio_tower.", "model.visual.")


def read_path(path: Path) -> Checkpoint:
    """A local folder, or one .gguf or .safetensors file. Raises CheckpointError."""
    if path.is_dir():
        return read_checkpoint(LocalFolder(path))
    return read_checkpoint(LocalFolder(path.parent), path.name)


def read_checkpoint(files: Files, name: str | None = None) -> Checkpoint:
    """Size what is in `files`, or just the file `name` of it (with the other parts of its split).

    1 `name` given: a .gguf or a .safetensors, anything else is refused
    2 model_index.json: a diffusers pipeline
    3 safetensors: a model folder with config.json
    4 exactly one GGUF (or one split of several parts): that file; several: refused, the caller must name one
    5 only pickles: refused, they can run code
    6 nothing of these: refused
    """
    sizes = dict(files.sizes())
    if len(sizes) > MAX_FOLDER_FILES:
        raise CheckpointError(f"{len(sizes):,} files: not a checkpoint.")
    # 1
    if name is not None:
        return _named(files, sizes, name)
    # 2
    if is_diffusers(sizes):
        return read_diffusers(files, sizes)
    # 3
    top = [path for path in sizes if "/" not in path]
    weights = sorted(path for path in top if path.endswith(".safetensors"))
    if weights:
        return _safetensors(files, sizes, _one_set(weights))
    # 4
    ggufs = sorted({SPLIT.sub("-00001-of-\\2", path) for path in top if path.endswith(".gguf")})
    if len(ggufs) == 1:
        return _gguf(files, sizes, ggufs[0])
    if ggufs:
        raise CheckpointError(f"{len(ggufs)} GGUF files are here; name one of them: {', '.join(ggufs)[:400]}.")
    # 5
    if any(path.endswith(PICKLED) for path in sizes):
        raise CheckpointError("The weights are pickles (.bin, .pt), which can run code when opened; safetensors or GGUF are needed.")
    # 6
    raise CheckpointError("No safetensors, no GGUF and no model_index.json: this is not a checkpoint.")


def _named(files: Files, sizes: dict[str, int], name: str) -> Checkpoint:
    if name not in sizes:
        raise CheckpointError(f"{name} is not among the {len(sizes)} files here.")
    if name.endswith(".gguf"):
        return _gguf(files, sizes, name)
    if name.endswith(".safetensors"):
        return _safetensors(files, sizes, parts_of(sizes, name))
    if name.endswith(PICKLED):
        raise CheckpointError(f"{name} is a pickle, which can run code when opened; safetensors or GGUF are needed.")
    raise CheckpointError(f"{name} is neither a .safetensors nor a .gguf file.")


def _one_set(weights: list[str]) -> list[str]:
    """Mistral's repositories hold the weights twice, as model*.safetensors and as consolidated*.safetensors."""
    usual = [path for path in weights if path.startswith("model")]
    return usual or weights


def _gguf(files: Files, sizes: dict[str, int], name: str) -> Checkpoint:
    parts = parts_of(sizes, name)
    headers = [read_gguf(reader_of(files, part), part, sizes[part]) for part in parts]
    whole = replace(headers[0], tensors=tuple(tensor for header in headers for tensor in header.tensors))
    text = geometry_of_gguf(whole, parts[0])
    return Checkpoint("gguf", whole.tensors, sum(sizes[part] for part in parts), quant_of_gguf(whole), text=text)


def _safetensors(files: Files, sizes: dict[str, int], weights: list[str]) -> Checkpoint:
    for path in weights:
        parts_of(sizes, path)
    tensors: list[TensorInfo] = []
    for path in weights:
        tensors += read_safetensors(reader_of(files, path), path, sizes[path])
    file_bytes = sum(sizes[path] for path in weights)
    if "config.json" not in sizes:
        return Checkpoint("safetensors", tuple(tensors), file_bytes)
    config = parse_object(reader_of(files, "config.json")(0, MAX_CONFIG_BYTES + 1), "config.json")
    text = geometry_of_config(config)
    vision = sum(tensor.elements for tensor in tensors if tensor.name.removeprefix("model.").startswith(_VISION))
    return Checkpoint("safetensors", tuple(tensors), file_bytes, quant_of_config(config), text=replace(text, vision_params=vision))
