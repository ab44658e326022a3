"""A variant from the model hub: which of the repository's files, checked, into the variant's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from services.provision.cache import VariantFolder, keep_only, require_space
from services.provision.errors import DamagedError, NotFoundError, UnreachableError, UnsafeWeightsError
from services.provision.hub import Hub, Listing
from services.provision.manifest import Fetched, read_manifest
from services.provision.names import inside, safe_file
from services.provision.progress import ByteMeter, Progress, ProgressSink
from services.provision.safety import PICKLED_SUFFIXES, check_index, is_allowed, is_weights, keep_if_safe, refuse_disallowed
from services.provision.transfer import Patience, TryAgainError, WantedFile, fetch, missing_bytes, partial_of, patiently
from services.sizing.types import ModelSpec, WeightSource


def fetch_from_hub(model: ModelSpec, source: WeightSource, folder: VariantFolder, progress: ProgressSink, patience: Patience) -> Fetched:
    """Bring the files of `source` into folder.files. Holds the caller's lock; raises a ProvisionError.

    1. List the repository at the pinned revision.  2. Choose; refuse what is unsafe, before a byte of it is fetched.
    3. Take files that another variant of this model already has.  4. Is there room for the rest?
    5. Fetch small files first, so that a config that is refused costs nothing.  6. An index must not name shards that are not there.
    """
    hub = Hub(source.repository or "", patience)
    listing = list_with_patience(hub, source.revision or "main", progress)  # 1
    wanted = select(listing, source)  # 2
    folder.files.mkdir(parents=True, exist_ok=True)
    targets = {folder.files / file.name: file for file in wanted}
    keep_only(folder.files, {*targets, *(partial_of(target, file) for target, file in targets.items())})
    for file in wanted:
        take_from_sibling(file, folder)  # 3
    what = f"Fetching {model.id} from {hub.repository}"
    require_space(what, folder.path, sum(missing_bytes(file, folder.files) for file in wanted))  # 4
    meter = ByteMeter(progress, "download", sum(file.size_bytes for file in wanted))
    records = []
    for file in sorted(wanted, key=lambda file: (is_weights(file.name), file.size_bytes)):  # 5
        records.append(fetch(file, folder.files, hub.source(listing.commit), meter, patience))
        keep_if_safe(folder.files / file.name, file.name)
    meter.say(f"{len(wanted)} files are complete")
    _check_indexes(wanted, folder.files)  # 6
    return Fetched(tuple(sorted(records, key=lambda record: record.name)), listing.commit)


def list_with_patience(hub: Hub, revision: str, progress: ProgressSink) -> Listing:
    """Hub.listing, tried again while the failure may pass. Raises UnreachableError when it does not."""

    def say(text: str) -> None:
        progress(Progress("list", None, None, text))

    say(f"asking {hub.endpoint} for the files of {hub.repository}")
    try:
        return patiently(lambda: hub.listing(revision), hub.patience, say)
    except TryAgainError as error:
        raise UnreachableError(
            f"{hub.repository} is needed and the hub can't be asked for it: {error}. "
            "Check the network, or set HF_ENDPOINT to a mirror that this machine reaches; what was fetched is kept."
        ) from None


def select(listing: Listing, source: WeightSource) -> tuple[WantedFile, ...]:
    """The files of `source` (names or shell patterns, as fnmatch reads them) that this repository has.

    1. A name of no allowed type, written out: refused.  2. A pattern takes files of allowed types only.
    3. Weights that are named must be there; side files (tokenizer.model ...) need not: not every repository has each.
    4. A name that would leave the folder, or comes twice: the whole repository is refused.
    5. Where the catalogue pins a sha256, the hub must state the same.
    """
    refuse_disallowed((pattern for pattern in source.files if not _is_pattern(pattern)), source.repository or "the catalogue")  # 1
    chosen: dict[str, WantedFile] = {}
    for pattern, pinned in zip(source.files, source.sha256 or (None,) * len(source.files), strict=True):
        matches = [file for file in listing.files if fnmatchcase(file.name, pattern) and is_allowed(file.name)]  # 2
        if not matches and is_weights(pattern):  # 3
            raise _no_weights(listing, source, pattern)
        chosen |= {file.name: _pinned(file, pinned) for file in matches}  # 5
    for name in chosen:  # 4
        safe_file(name)
        if sum(file.name == name for file in listing.files) > 1:
            raise UnsafeWeightsError(f"{source.repository} lists {name!r} twice. Refused.")
    if not any(is_weights(name) for name in chosen):
        raise _no_weights(listing, source, " ".join(source.files))
    return tuple(chosen.values())


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _no_weights(listing: Listing, source: WeightSource, pattern: str) -> Exception:
    if any(file.name.casefold().endswith(PICKLED_SUFFIXES) for file in listing.files):
        return UnsafeWeightsError(
            f"{source.repository} has no {pattern[:200]!r}; its weights are pickles, which can run code when they are opened. "
            "rigserve loads safetensors and GGUF only: choose a repository that has them."
        )
    return NotFoundError(f"{source.repository} has no {pattern[:200]!r} at revision {source.revision}. Correct the model file.")


def _pinned(file: WantedFile, sha256: str | None) -> WantedFile:
    if sha256 is None:
        return file
    if file.sha256 not in (None, sha256):
        raise DamagedError(
            f"The hub states another sha256 for {file.name} ({str(file.sha256)[:16]}...) than the catalogue pins ({sha256[:16]}...). "
            "Nothing was fetched: the file was changed, or the hub is not the one that the catalogue was written from."
        )
    return replace(file, sha256=sha256, git_sha1=None)


def take_from_sibling(file: WantedFile, folder: VariantFolder) -> None:
    """Link a file that another complete variant of the model has: a 4-bit variant is often the 16-bit files, quantized while loading."""
    target = inside(folder.files, file.name)
    if file.sha256 is None or target.exists():
        return
    for path in _same_bytes_elsewhere(file, folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # a file system without hard links, or the sibling has just gone: fetch it
            continue
        return


def _same_bytes_elsewhere(file: WantedFile, folder: VariantFolder) -> Iterator[Path]:
    for manifest_path in sorted(folder.path.parent.glob("*/manifest.json")):
        sibling = VariantFolder(manifest_path.parent)
        manifest = read_manifest(sibling) if sibling != folder else None
        for record in manifest.files if manifest else ():
            if record.sha256 == file.sha256 and record.size_bytes == file.size_bytes:
                yield sibling.files / record.name


def _check_indexes(wanted: tuple[WantedFile, ...], folder: Path) -> None:
    names = [file.name for file in wanted]
    for name in names:
        if name.endswith(".safetensors.index.json"):
            parent = name.rpartition("/")[0]
            check_index(folder / name, names, f"{parent}/" if parent else "")
