"""Which names may become paths. One rule for all: nothing that a catalogue, a hub or a wheel says leaves its own folder."""

from __future__ import annotations

import re
from pathlib import Path

from services.provision.errors import UnsafeWeightsError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
# A part never starts with a dot (hidden files, "." and "..", our own temporary names) nor with a dash (an option of some program).
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@ -]{0,199}", re.ASCII)
MAX_DEPTH = 8


def safe_id(identifier: str, what: str) -> str:
    """A model or variant id that may name a folder. Raises UnsafeWeightsError; `what` names it in the message."""
    if not _ID.fullmatch(identifier) or ".." in identifier:
        raise UnsafeWeightsError(f"The {what} {identifier[:100]!r} cannot name a folder: use letters, digits, '.', '_' and '-' only.")
    return identifier


def safe_file(name: str) -> str:
    """A relative file name with "/" between its parts. Raises UnsafeWeightsError for anything absolute, hidden, odd or climbing."""
    parts = name.split("/")
    if len(parts) > MAX_DEPTH or not all(_PART.fullmatch(part) and not part.endswith((".", " ")) for part in parts):
        raise UnsafeWeightsError(
            f"The file name {name[:200]!r} is refused: names are relative, at most {MAX_DEPTH} folders deep, not hidden, "
            "and hold letters, digits and '._+=@ -' only. Choose another source for these weights."
        )
    return name


def inside(folder: Path, name: str) -> Path:
    """Where `name` lies in `folder`, after every link on the way has been followed. Raises UnsafeWeightsError when that is elsewhere."""
    path = folder / safe_file(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeWeightsError(f"{path} leads out of its folder through a link. Remove the link and run again.")
    return path
