"""What may be fetched and what may be loaded. A pickle runs code when it is opened, so none is ever fetched;
safetensors and GGUF hold numbers only. Configs that point to Python code of the repository (auto_map) are refused too,
although no engine here runs with trust_remote_code: such a model would fail later, with a worse message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from services.provision.errors import DamagedError, UnsafeWeightsError
from services.sizing.checkpoint import CheckpointError
from services.sizing.checkpoint_safetensors import read_safetensors

WEIGHT_SUFFIXES = (".safetensors", ".gguf")
SIDE_SUFFIXES = (".json", ".txt", ".model", ".jinja")
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
MAX_CONFIG_BYTES = 4 * 2**20


def is_weights(name: str) -> bool:
    return name.endswith(WEIGHT_SUFFIXES)


def is_allowed(name: str) -> bool:
    """Weights as numbers, and the text files that an engine reads beside them."""
    return name.endswith(WEIGHT_SUFFIXES + SIDE_SUFFIXES)


def refuse_disallowed(names: Iterable[str], where: str) -> None:
    """Raise UnsafeWeightsError when a name is of no allowed type; pickles get their own sentence."""
    for name in names:
        if name.casefold().endswith(PICKLED_SUFFIXES):
            raise UnsafeWeightsError(
                f"{where} offers {name[:200]!r}, a format that can run code when it is opened. rigserve loads safetensors and GGUF only: "
                "choose a variant or a repository that has them."
            )
        if not is_allowed(name):
            allowed = ", ".join(WEIGHT_SUFFIXES + SIDE_SUFFIXES)
            raise UnsafeWeightsError(f"{name[:200]!r} of {where} is refused: only {allowed} files are fetched.")


def check_content(path: Path, name: str) -> None:
    """Look into a file that has arrived (its checksum holds): is it what its name says, and free of code?

    1. safetensors: the header parses and its tensors lie in the file.  2. GGUF: the magic is there.
    3. a config: JSON without auto_map, and without a pipeline class of its own.
    Raises UnsafeWeightsError or DamagedError.
    """
    if name.endswith(".safetensors"):
        check_safetensors(path)
    elif name.endswith(".gguf"):
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise DamagedError(f"{path} is not a GGUF file: it does not begin with GGUF. Fetch it again or choose another source.")
    elif _is_config(name):
        check_config(path)


def keep_if_safe(path: Path, name: str) -> None:
    """check_content, and the file goes when it fails."""
    try:
        check_content(path, name)
    except (UnsafeWeightsError, DamagedError):
        path.unlink()
        raise


def _is_config(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.endswith("config.json") or base in ("model_index.json", "config_sentence_transformers.json")


def check_safetensors(path: Path) -> None:
    """The header parses, and every tensor lies in the file and has the size of its shape. Raises DamagedError."""
    with path.open("rb") as file:

        def read(offset_bytes: int, length_bytes: int) -> bytes:
            file.seek(offset_bytes)
            return file.read(length_bytes)

        try:
            read_safetensors(read, path.name, path.stat().st_size)
        except CheckpointError as error:
            raise DamagedError(f"{path.parent} holds a safetensors file that does not open. {error} Fetch it again.") from None


def check_config(path: Path) -> None:
    """Raise UnsafeWeightsError for a config that names code of its own repository."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UnsafeWeightsError(f"{path.name} is {path.stat().st_size:,} bytes; a config is at most {MAX_CONFIG_BYTES:,}. Refused.")
    config = _parse_json(path.read_bytes(), path)
    if "auto_map" in config or "custom_pipelines" in config:
        raise UnsafeWeightsError(
            f"{path.name} names Python code of its repository (auto_map). rigserve never runs code of a model: "
            "choose a repository whose architecture the engine itself knows."
        )
    if path.name == "model_index.json" and not isinstance(config.get("_class_name"), str):
        raise UnsafeWeightsError(
            f"{path.name} names a pipeline class of its own repository instead of one of diffusers'. rigserve never runs code of a model."
        )


def check_index(path: Path, names: Iterable[str], folder: str) -> None:
    """A *.safetensors.index.json of which some shards are among `names` (relative, as fetched) must find all there. Raises DamagedError.

    An index with none of its shards there belongs to a form of the weights that this variant does not use.
    """
    weight_map = _parse_json(path.read_bytes(), path).get("weight_map")
    shards = {str(shard) for shard in weight_map.values()} if isinstance(weight_map, dict) else set()
    missing = sorted(shards - {name.removeprefix(folder) for name in names})
    if missing and len(missing) < len(shards):
        raise DamagedError(f"{path.name} lists {len(missing)} weight files that this variant does not have, such as {missing[0][:200]!r}.")


def _parse_json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedError(f"{path} does not hold valid JSON. Fetch it again or choose another source.") from None
    if not isinstance(value, dict):
        raise DamagedError(f"{path} does not hold a JSON object. Fetch it again or choose another source.")
    return value
