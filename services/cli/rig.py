"""Which cards a command is about: those described with --cards, those of this machine, or the simulated CPU card."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import click

from services.cli.profiles import with_profiles
from services.hardware.detect import detect
from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.types import Card, Host

DEFAULT_BUDGET_BYTES = 4 * 2**30
SHARE_OF_AVAILABLE_RAM = 0.6
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(GiB|GB|G|MiB|MB|M)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rig:
    """A host, its cards, and what was said while finding them."""

    host: Host
    cards: tuple[Card, ...]
    notes: tuple[str, ...]


def size_bytes(text: str) -> int:
    """`4`, `4GiB`, `3500 MiB` -> bytes (no unit means GiB; GB is read as GiB, as card makers print it)."""
    match = _SIZE.fullmatch(text)
    if match is None or not (size := float(match[1])):
        raise click.BadParameter(f"{text!r} is not a memory size; write for example 4GiB or 3500MiB")
    return int(size * (2**20 if (match[2] or "G").upper().startswith("M") else 2**30))


def rig_of_this_machine(cards_text: str | None = None, card_memory: str | None = None, host_ram: str | None = None) -> Rig:
    """1. --cards: exactly those. 2. Cards that the drivers show. 3. None: one simulated CPU card with a memory budget.
    Cards of 1 and 2 carry the profile that `rigserve probe --save` found for their UUID."""
    found = detect()
    host = found.host
    if host_ram:
        host = Host(size_bytes(host_ram), size_bytes(host_ram), host.cpu_model, host.cpu_count, host.cpu_flags, host.machine)
    if cards_text:
        cards, notes = with_profiles(parse_cards(cards_text))
        return Rig(host, cards, ("cards as described, not detected", *notes))
    if found.cards:
        cards, notes = with_profiles(found.cards)
        return Rig(host, cards, (*found.notes, *notes))
    budget = _budget_bytes(host, card_memory or os.environ.get("RIGSERVE_CARD_MEMORY"))
    note = f"no GPU found: using one simulated CPU card with a budget of {budget / 2**30:.2f} GiB of host memory"
    return Rig(host, (simulated_cpu_card(budget),), (*found.notes, note))


def _budget_bytes(host: Host, wish: str | None) -> int:
    if wish:
        return size_bytes(wish)
    if host.ram_available_bytes is None:
        return DEFAULT_BUDGET_BYTES
    return min(DEFAULT_BUDGET_BYTES, int(host.ram_available_bytes * SHARE_OF_AVAILABLE_RAM))
