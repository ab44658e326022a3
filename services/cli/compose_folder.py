"""The generated folder on disk: files written whole or not at all, the ones before them kept, secrets made once."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from services.deploy.around import GRAFANA_SECRET
from services.deploy.workers import HUB_TOKEN

PREVIOUS = "previous"
SECRET_MODE = 0o400


class FolderError(click.ClickException):
    """The folder can't be written or is not one of ours."""


def differing(folder: Path, files: Mapping[str, str]) -> list[str]:
    """The names of those files that are not on disk as they should be."""
    return [name for name, text in files.items() if _text(folder / name) != text]


def write_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Write what differs and say what it was. The last files are kept in previous/, for `rigserve upgrade --back`.

    All new texts are on the disk before the first of them replaces an old one. Raises FolderError.
    """
    changed = differing(folder, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if changed and any((folder / name).is_file() for name in changed):
            keep_previous(folder, files)
        waiting = []
        for name in changed:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting.append((path.with_name(f".{path.name}.new"), path))
            waiting[-1][0].write_text(files[name], encoding="utf8")
            waiting[-1][0].chmod(0o644)  # read by the containers' users
        for new, path in waiting:
            new.replace(path)
    except OSError as error:
        raise FolderError(f"{error.filename or folder} can't be written: {error.strerror}") from error
    return changed


def keep_previous(folder: Path, names: Iterable[str]) -> None:
    """The files as they are now, in previous/."""
    before = folder / PREVIOUS
    shutil.rmtree(before, ignore_errors=True)
    for name in names:
        if (folder / name).is_file():
            (before / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, before / name)


def swap_previous(folder: Path) -> None:
    """The files of previous/ become the current ones, and the other way round. Raises FolderError when there are none."""
    before = folder / PREVIOUS
    if not before.is_dir():
        raise FolderError(f"{before} holds no earlier files: nothing was changed since the first `rigserve compose`")
    files = {str(path.relative_to(before)): path.read_text(encoding="utf8") for path in before.rglob("*") if path.is_file()}
    write_files(folder, files)


def write_secrets(folder: Path, names: Iterable[str], owner: tuple[int, int] | None) -> None:
    """A random word for each name that has none, readable by `owner` (the containers' user) alone; those that are there stay.

    The hub token's file is made empty: its owner fills it. Raises FolderError.
    """
    place = folder / "secrets"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in names:
            path = place / name
            if not path.is_file():
                _write_secret(path, "" if name == HUB_TOKEN else _word(name))
            if owner is not None:
                os.chown(path, *owner)
    except OSError as error:
        raise FolderError(f"{error.filename or place} can't be written: {error.strerror}") from error


def owner_of_containers() -> tuple[str, tuple[int, int] | None]:
    """(uid:gid of the containers, whom to give the secrets to). Root's containers are 10001's; a user's own are the user's."""
    if os.geteuid() == 0:
        return "10001:10001", (10001, 10001)
    return f"{os.geteuid()}:{os.getegid()}", None


def _word(name: str) -> str:
    return secrets.token_urlsafe(18) if name == GRAFANA_SECRET else secrets.token_hex(32)


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
    with os.fdopen(descriptor, "w", encoding="utf8") as file:
        file.write(text)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError):
        return None
