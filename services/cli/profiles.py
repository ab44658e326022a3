"""What `rigserve probe --save` found out, kept by GPU UUID in $XDG_CONFIG_HOME/rigserve/profiles.json.

Unlocking a card is lost with a reboot, so "unlocked" counts only in the boot that it was measured in; "stock" is the safe belief anyway.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from services.sizing.profile import ProbeFigures, Profile
from services.sizing.types import Card

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAX_FILE_BYTES = 2**20


def profiles_file() -> Path:
    """Where profiles are kept."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "rigserve" / "profiles.json"


def boot_id() -> str | None:
    """The kernel's id of this boot; None where it has none."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def with_profiles(cards: tuple[Card, ...]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards with what was measured on them, and notes on what could not be used."""
    if not cards:
        return cards, ()
    known, notes = _load()
    found = []
    for card in cards:
        entry = known.get(card.id)
        profile = entry.get("profile") if isinstance(entry, dict) else None
        if profile == "unlocked" and (entry or {}).get("boot_id") != boot_id():
            notes.append(f"{card.name} ({card.id}) was unlocked in an earlier boot and counts as stock now; run `rigserve probe --save`.")
            profile = None
        found.append(replace(card, profile=profile) if profile in ("stock", "unlocked") else card)
    return tuple(found), tuple(notes)


def save_profiles(found: dict[str, tuple[ProbeFigures, Profile]]) -> Path:
    """Add what was measured to the file, whole or not at all. Raises ClickException when it can't be written."""
    known, _ = _load()
    for card_id, (figures, profile) in found.items():
        known[card_id] = {"profile": profile.profile, "boot_id": boot_id(), "figures": asdict(figures), "reasons": list(profile.reasons)}
    path = profiles_file()
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=1) + "\n", encoding="utf8")
        partial.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from error
    return path


def _load() -> tuple[dict[str, Any], list[str]]:
    path = profiles_file()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return {}, [f"{path} is too large to be a list of card profiles and is not used."]
        known = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, RecursionError):
        return {}, [f"{path} can't be read and is not used; `rigserve probe --save` writes it anew."]
    return (known, []) if isinstance(known, dict) else ({}, [f"{path} holds no card profiles and is not used."])
