"""What can go wrong while fetching or making what a placement needs. Every message is a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

GIB = 2**30


class ProvisionError(Exception):
    """Base of this room's errors. The message is complete: show it as it is, without a traceback."""


class AccessDeniedError(ProvisionError):
    """The source exists (or may) but this machine may not read it: gated, private, or a bad token."""


class NotFoundError(ProvisionError):
    """The source, its revision or one of its files does not exist."""


class UnreachableError(ProvisionError):
    """No network, a server that fails, or offline mode. What was fetched so far is kept."""


class UnsafeWeightsError(ProvisionError):
    """The files could run code or write where they must not. Never fetched, never loaded."""


class DamagedError(ProvisionError):
    """Bytes that are not what their checksum says. The bad file is removed."""


class NoSpaceError(ProvisionError):
    """The disk can't take it. `need_bytes` is None where it was found full while writing, all checks notwithstanding."""

    def __init__(self, what: str, where: Path, need_bytes: int | None, have_bytes: int) -> None:
        self.where = where
        self.need_bytes = need_bytes
        self.have_bytes = have_bytes
        if need_bytes is None:
            finding = f"{what}: the disk of {where} is full, {_size(have_bytes)} is free; what was fetched so far is kept. Free space there"
        else:
            finding = f"{what} needs {_size(need_bytes)} in {where}, where {_size(have_bytes)} is free"
            finding += f". Free {_size(need_bytes - have_bytes)} there"
        super().__init__(f"{finding}, or set RIGSERVE_CACHE to a folder on a larger disk.")


def _size(count_bytes: int) -> str:
    return f"{count_bytes / GIB:.2f} GiB ({count_bytes:,} bytes)"
