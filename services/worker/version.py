"""Which version of an engine is installed, without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def installed_version(engine_python: Path | None, packages: Sequence[str]) -> str | None:
    """The version of the first of `packages` that lies in the environment of `engine_python`; None when none does.

    Read from the folder's name, NAME-VERSION.dist-info, which every installer writes.
    """
    if engine_python is None:
        return None
    library = engine_python.parent.parent / "lib"
    for package in packages:
        for folder in library.glob(f"python3*/site-packages/{package}-*.dist-info"):
            return folder.name.removesuffix(".dist-info").removeprefix(f"{package}-")
    return None
