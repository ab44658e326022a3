"""Bring one file from a server that answers ranges, so that its final name appears only when its checksum holds."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from services.provision.cache import sync_folder
from services.provision.errors import DamagedError, UnreachableError
from services.provision.manifest import BLOCK_BYTES, FileRecord, record_of
from services.provision.names import inside
from services.provision.progress import ByteMeter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try. `attempts` counts failures in a row without a byte in between; waits double from `first_wait_s`.

    `longest_wait_s`: a server that asks for more (Retry-After) is not waited for.
    """

    attempts: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    connect_s: float = 10.0
    read_s: float = 30.0

    def wait_s(self, failures: int, asked_s: float | None = None) -> float | None:
        """Seconds to wait after that many failures in a row; None: give up."""
        wait_s = self.first_wait_s * 2 ** (failures - 1) if asked_s is None else asked_s
        return None if failures >= self.attempts or wait_s > self.longest_wait_s else wait_s


class TryAgainError(Exception):
    """A failure that may pass: a lost connection, a busy server. `asked_s` is the server's own wish (Retry-After)."""

    def __init__(self, reason: str, asked_s: float | None = None) -> None:
        self.asked_s = asked_s
        super().__init__(reason)


def patiently(action: Callable[[], T], patience: Patience, say: Callable[[str], None]) -> T:
    """The action's result; a TryAgainError is waited out while patience lasts, and raised after that."""
    failures = 0
    while True:
        try:
            return action()
        except TryAgainError as error:
            failures += 1
            wait_s = patience.wait_s(failures, error.asked_s)
            if wait_s is None:
                raise
            say(f"{error}; trying again in {wait_s:.0f} s")
            time.sleep(wait_s)


class RangeIgnoredError(Exception):
    """The server can't continue from this offset."""


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One file to fetch. Its checksum is `sha256`, or the id that git gives to its content (sha1, small text files of a hub)."""

    name: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None = None

    @property
    def checksum(self) -> str:
        return self.sha256 or self.git_sha1 or ""


class Source(Protocol):
    """Opens one file at an offset. Raises TryAgainError, RangeIgnoredError or a ProvisionError; so may the iterator (TryAgainError)."""

    def __call__(self, name: str, offset_bytes: int) -> AbstractContextManager[Iterator[bytes]]: ...


class Checksum:
    """The sha256 of what was seen of a file, and git's blob id where that is all there is to compare with."""

    def __init__(self, wanted: WantedFile) -> None:
        self._wanted = wanted
        self._sha256 = hashlib.sha256()
        # git hashes "blob <size>\0" and the content (git's gitformat-loose); sha1 because that is what the hub states.
        self._git_sha1 = hashlib.sha1(b"blob %d\0" % wanted.size_bytes, usedforsecurity=False) if wanted.sha256 is None else None
        self.seen_bytes = 0

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._git_sha1 is not None:
            self._git_sha1.update(block)
        self.seen_bytes += len(block)

    def holds(self) -> bool:
        found = self.sha256 if self._git_sha1 is None else self._git_sha1.hexdigest()
        return self.seen_bytes == self._wanted.size_bytes and found == self._wanted.checksum


def fetch(wanted: WantedFile, folder: Path, source: Source, meter: ByteMeter, patience: Patience) -> FileRecord:
    """Make folder/wanted.name exist, whole and checked.

    1. The file is there already (an earlier run was cut later on): keep it if its checksum holds, else remove it.
    2. A .partial is there: its bytes count, and the rest is asked for by Range.
    3. Fetch; a lost connection is taken up where it broke, a few times.
    4. The checksum holds: rename. It does not, and the bytes came from two runs: once more from the start.
    5. It still does not: remove the bytes and raise DamagedError.
    """
    target = inside(folder, wanted.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():  # 1
        meter.say(f"checking {wanted.name}")
        if found := _record_if_right(target, folder, wanted):
            meter.found(wanted.size_bytes)
            return found
        target.unlink()
    partial = partial_of(target, wanted)
    resumed = partial.exists()
    checksum = _receive(wanted, partial, source, meter, patience)  # 2, 3
    if resumed and not checksum.holds():  # 4
        _discard(partial, checksum.seen_bytes, meter)
        checksum = _receive(wanted, partial, source, meter, patience)
    if not checksum.holds():  # 5
        _discard(partial, checksum.seen_bytes, meter)
        raise DamagedError(
            f"{wanted.name} arrived with another checksum than its source states ({wanted.checksum[:16]}...), and was removed. Run again; "
            "if it happens again, something between here and the source changes files: check the proxy, the disk and the memory."
        )
    partial.replace(target)
    sync_folder(target.parent)
    return record_of(folder, wanted.name, checksum.sha256)


def partial_of(target: Path, wanted: WantedFile) -> Path:
    """The temporary name: it holds the checksum, so parts of two versions of a file are never joined."""
    return target.with_name(f".{target.name}.{wanted.checksum[:16]}.partial")


def missing_bytes(wanted: WantedFile, folder: Path) -> int:
    """What is still to come of a file, judged by sizes."""
    target = folder / wanted.name
    for path in (target, partial_of(target, wanted)):
        if path.is_file():
            return max(0, wanted.size_bytes - path.stat().st_size)
    return wanted.size_bytes


def _record_if_right(target: Path, folder: Path, wanted: WantedFile) -> FileRecord | None:
    if target.stat().st_size != wanted.size_bytes:
        return None
    checksum = Checksum(wanted)
    with target.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum.update(block)
    return record_of(folder, wanted.name, checksum.sha256) if checksum.holds() else None


def _discard(partial: Path, seen_bytes: int, meter: ByteMeter) -> None:
    partial.unlink()
    meter.found(-seen_bytes)


def _receive(wanted: WantedFile, partial: Path, source: Source, meter: ByteMeter, patience: Patience) -> Checksum:
    """Fill `partial` up to the wanted size. Raises UnreachableError when patience ends; the bytes stay for the next run."""
    with partial.open("ab+") as file:
        checksum = _take_up(wanted, file, meter)
        failures = 0
        while checksum.seen_bytes < wanted.size_bytes:
            before_bytes = checksum.seen_bytes
            meter.say(f"fetching {wanted.name}")
            try:
                with source(wanted.name, before_bytes) as blocks:
                    _append(wanted, file, blocks, checksum, meter)
                if checksum.seen_bytes < wanted.size_bytes:
                    raise TryAgainError("the server ended the file early")
            except RangeIgnoredError:
                file.truncate(0)
                meter.found(-checksum.seen_bytes)
                checksum = Checksum(wanted)
                if before_bytes == 0:
                    raise UnreachableError(f"The server refuses {wanted.name} from its first byte. Try again later.") from None
            except DamagedError:
                partial.unlink()
                raise
            except TryAgainError as error:
                failures = 1 if checksum.seen_bytes > before_bytes else failures + 1
                _wait(error, failures, wanted, checksum, meter, patience)
        file.flush()
        os.fsync(file.fileno())
    return checksum


def _take_up(wanted: WantedFile, file: BinaryIO, meter: ByteMeter) -> Checksum:
    """The checksum of what an earlier run left. More than there should be is worthless."""
    checksum = Checksum(wanted)
    if file.seek(0, os.SEEK_END) > wanted.size_bytes:
        file.truncate(0)
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        checksum.update(block)
        meter.found(len(block))
    return checksum


def _append(wanted: WantedFile, file: BinaryIO, blocks: Iterator[bytes], checksum: Checksum, meter: ByteMeter) -> None:
    for block in blocks:
        if checksum.seen_bytes + len(block) > wanted.size_bytes:
            # Never write past the size that the disk was checked for.
            raise DamagedError(f"The server sends more of {wanted.name} than the {wanted.size_bytes:,} bytes that it announced. Refused.")
        file.write(block)
        checksum.update(block)
        meter.moved(len(block))


def _wait(error: TryAgainError, failures: int, wanted: WantedFile, checksum: Checksum, meter: ByteMeter, patience: Patience) -> None:
    wait_s = patience.wait_s(failures, error.asked_s)
    if wait_s is None:
        raise UnreachableError(
            f"{wanted.name} could not be fetched: {error}. {checksum.seen_bytes:,} of {wanted.size_bytes:,} bytes are kept; "
            "run again to continue from there."
        ) from None
    meter.say(f"{wanted.name}: {error}; trying again in {wait_s:.0f} s ({failures} of {patience.attempts - 1})")
    time.sleep(wait_s)
