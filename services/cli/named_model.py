"""Which model a name on the command line means: one of the catalogue, a folder or file here, or a repository of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from services.provision.hub import REPOSITORY
from services.provision.remote_headers import RemoteFolder
from services.sizing.catalogue import Catalogue, UnknownModelError
from services.sizing.checkpoint import CheckpointError
from services.sizing.checkpoint_folder import read_checkpoint, read_path
from services.sizing.checkpoint_model import model_of
from services.sizing.types import ModelSpec, WeightSource

HUB = "hf:"
_WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_REPOSITORY = re.compile(r"(?P<repository>[^@:]+)(@(?P<revision>[A-Za-z0-9._/-]{1,100}))?(:(?P<file>.{1,300}))?", re.ASCII)


def named_model(name: str, catalogue: Catalogue) -> ModelSpec:
    """1. `hf:OWNER/NAME[@REVISION][:FILE]`: that repository's headers, by range requests. 2. What looks like a path, and a folder that is
    no name of the catalogue: the headers of those files. 3. Else the catalogue.

    Raises UnknownModelError, CheckpointError, or (for the hub) a ProvisionError.
    """
    # 1
    if name.startswith(HUB):
        return _of_hub(name.removeprefix(HUB))
    # 2
    if name.startswith(("./", "../", "/", "~")) or name in (".", "..") or name.casefold().endswith(_WEIGHTS):
        return _of_path(name)
    # 3
    try:
        return catalogue.get(name)
    except UnknownModelError as error:
        if name.strip() and len(name) <= 255 and "\0" not in name and Path(name).is_dir():
            return _of_path(name)
        if REPOSITORY.fullmatch(name):
            advice = f"To size it from the headers of its repository: `rigserve fit {HUB}{name}`."
            raise UnknownModelError(name, error.nearest, advice) from None
        raise


def _of_path(name: str) -> ModelSpec:
    if "\0" in name or len(name) > 4096:
        raise CheckpointError("A path holds no NUL and is at most 4096 characters long.")
    path = Path(name).expanduser()
    try:
        if not path.exists():
            raise CheckpointError(f"{name[:200]} does not exist.")
        if not path.is_dir() and not path.is_file():
            raise CheckpointError(f"{name[:200]} is neither a file nor a folder.")
        whole = path.resolve()
        return model_of(read_path(whole), whole.name or str(whole), WeightSource("repo", path=str(whole)))
    except (OSError, RuntimeError) as error:  # RuntimeError: a home that no one has (~nobody), a loop of links
        raise CheckpointError(f"{name[:200]} can't be read: {error}") from None


def _of_hub(name: str) -> ModelSpec:
    match = _REPOSITORY.fullmatch(name)
    if match is None or not REPOSITORY.fullmatch(match["repository"]):
        raise CheckpointError(f"{name[:200]!r} is no repository; write {HUB}OWNER/NAME, with @REVISION and :FILE where they are needed.")
    folder = RemoteFolder(match["repository"], match["revision"] or "main")
    checkpoint = read_checkpoint(folder, match["file"])
    files = (match["file"],) if match["file"] else ("*",)
    return model_of(checkpoint, match["repository"], WeightSource("hub", match["repository"], folder.commit, files=files))
