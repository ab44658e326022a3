"""The manifest of a variant: the list of files that proves that it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from services.provision.cache import VariantFolder, sync_folder
from services.provision.errors import UnsafeWeightsError
from services.provision.names import safe_file
from services.provision.progress import ByteMeter

VERSION = 1
BLOCK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file. `name` is relative to the files folder; `mtime_ns` lets a start notice a change without reading the bytes."""

    name: str
    size_bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`source` is what the catalogue asked for, `commit` what the hub made of it, `made_with` the programs of a conversion."""

    model_id: str
    variant_id: str
    source: dict[str, Any]
    commit: str | None
    made_with: dict[str, str]
    files: tuple[FileRecord, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source gave: the files' records and, from a hub, the commit they belong to."""

    files: tuple[FileRecord, ...]
    commit: str | None = None


def read_manifest(folder: VariantFolder) -> Manifest | None:
    """None when there is none, or none that this version understands: either way the variant does not count as present."""
    try:
        with folder.manifest.open("rb") as file:
            content = json.loads(file.read(MAX_MANIFEST_BYTES))
        if content.pop("version") != VERSION:
            return None
        files = tuple(FileRecord(**record) for record in content.pop("files"))
        if not files or any(safe_file(file.name) != file.name or type(file.size_bytes) is not int for file in files):
            return None
        return Manifest(files=files, **content)
    except (FileNotFoundError, NotADirectoryError, UnsafeWeightsError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # what JSON that is not ours can raise
        return None


def write_manifest(folder: VariantFolder, manifest: Manifest) -> None:
    """In one rename, after the files' own names are safe on disk."""
    for path in {folder.files, *((folder.files / file.name).parent for file in manifest.files)}:
        sync_folder(path)
    partial = folder.manifest.with_name(".manifest.json.partial")
    with partial.open("w", encoding="utf8") as file:
        json.dump({"version": VERSION, **asdict(manifest)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder.manifest)
    sync_folder(folder.path)


def record_of(folder: Path, name: str, sha256: str) -> FileRecord:
    """The record of a file whose checksum is already known."""
    state = (folder / name).stat()
    return FileRecord(name, state.st_size, sha256, state.st_mtime_ns)


def refreshed(manifest: Manifest, folder: VariantFolder) -> Manifest:
    """The same files with the times that they have now."""
    return replace(manifest, files=tuple(record_of(folder.files, file.name, file.sha256) for file in manifest.files))


def quick_differences(manifest: Manifest, folder: VariantFolder) -> Iterator[str]:
    """One sentence for each file that is missing, or whose size or time is not the manifest's. Reads no content."""
    for file in manifest.files:
        try:
            state = (folder.files / file.name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            yield f"{file.name} is missing"
            continue
        if not stat.S_ISREG(state.st_mode):
            yield f"{file.name} is not a plain file"
        elif state.st_size != file.size_bytes:
            yield f"{file.name} has {state.st_size:,} bytes instead of {file.size_bytes:,}"
        elif state.st_mtime_ns != file.mtime_ns:
            yield f"{file.name} was written to since it was checked"


def full_differences(manifest: Manifest, folder: VariantFolder, meter: ByteMeter) -> Iterator[str]:
    """One sentence for each file whose bytes are not the manifest's. Reads everything; times don't matter."""
    for file in manifest.files:
        path = folder.files / file.name
        if path.is_symlink() or not path.is_file():
            yield f"{file.name} is missing"
            continue
        meter.say(f"checking {file.name}")
        found = sha256_of(path, meter)
        if found != file.sha256:
            yield f"{file.name} has sha256 {found} instead of {file.sha256}"


def sha256_of(path: Path, meter: ByteMeter | None = None) -> str:
    """The sha256 of a file, 64 lower-case hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            if meter is not None:
                meter.moved(len(block))
    return digest.hexdigest()
