"""Where weights lie on disk, and the rule that makes a variant count as present.

    $RIGSERVE_CACHE, or $XDG_CACHE_HOME/rigserve, or ~/.cache/rigserve
    └─ weights/<model>/<variant>/
       ├─ lock            held while a process fetches or makes this variant
       ├─ manifest.json   written last: a variant without a complete one does not exist
       └─ files/          exactly what the engine reads
          └─ .<name>.<checksum>.partial   a file on its way; renamed to <name> once its checksum holds

So a cut download, a full disk or a power failure leaves at most a file under a name that no engine opens.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from services.provision.errors import NoSpaceError
from services.provision.names import safe_id
from services.provision.progress import Progress, ProgressSink

# A disk filled to the last byte stops more than this program.
SPARE_BYTES = 256 * 2**20
LOCK_POLL_S = 5.0


def cache_root(environ: Mapping[str, str] | None = None) -> Path:
    """The root of everything that rigserve may fetch again. A relative $XDG_CACHE_HOME is ignored, as its specification says."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("RIGSERVE_CACHE"):
        return Path(chosen).expanduser().absolute()
    shared = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (shared if shared.is_absolute() else Path("~/.cache").expanduser()) / "rigserve"


@dataclass(frozen=True, slots=True)
class VariantFolder:
    """The places of one variant; making this value touches no disk."""

    path: Path

    @property
    def files(self) -> Path:
        return self.path / "files"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"


def folder_of(model_id: str, variant_id: str) -> VariantFolder:
    """Raises UnsafeWeightsError for ids that cannot name a folder."""
    return VariantFolder(cache_root() / "weights" / safe_id(model_id, "model id") / safe_id(variant_id, "variant id"))


@contextmanager
def only_one(folder: VariantFolder, progress: ProgressSink, poll_s: float = LOCK_POLL_S) -> Iterator[None]:
    """Hold the variant's lock. Waits for another process that holds it, and says so; a process that dies lets go of it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.lock)
    timeout_s = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=timeout_s)
        except filelock.Timeout:
            progress(Progress("wait", None, None, f"another rigserve process is preparing {folder.path}; waiting for it"))
            timeout_s = poll_s
    try:
        yield
    finally:
        lock.release()


def require_space(what: str, folder: Path, need_bytes: int) -> None:
    """Raise NoSpaceError unless `folder` (which exists) can take `need_bytes` and keep SPARE_BYTES free."""
    have_bytes = shutil.disk_usage(folder).free
    if need_bytes > 0 and need_bytes + SPARE_BYTES > have_bytes:
        raise NoSpaceError(what, folder, need_bytes + SPARE_BYTES, have_bytes)


def keep_only(folder: Path, keep: set[Path]) -> None:
    """Remove every other file, and every link: files of another revision must not lie beside what an engine reads."""
    for path in list(folder.rglob("*")):
        if path.is_symlink() or (path not in keep and not path.is_dir()):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
