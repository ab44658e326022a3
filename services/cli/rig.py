"""Which cards a command is about: those described with --cards, those of this machine, or the simulated CPU card."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import click

from services.calibration.attach import with_measured
from services.calibration.store import CalibrationError, Store, default_path
from services.cli.output import gib
from services.cli.profiles import with_profiles
from services.hardware.detect import detect
from services.sizing.cards import parse_cards, simulated_cpu_card, taken_sizes
from services.sizing.types import Card, Host

DEFAULT_BUDGET_BYTES = 4 * 2**30
SHARE_OF_AVAILABLE_RAM = 0.6
LARGEST_BYTES = 64 * 2**40
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(TiB|TB|T|GiB|GB|G|MiB|MB|M)?\s*", re.IGNORECASE | re.ASCII)
_FACTORS = {"M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class Rig:
    """A host, its cards, and what was said while finding them."""

    host: Host
    cards: tuple[Card, ...]
    notes: tuple[str, ...]


def size_bytes(text: str, option: str | None = None) -> int:
    """`4`, `4GiB`, `3500 MiB` -> bytes (no unit means GiB; GB is read as GiB, as card makers print it). Raises BadParameter for what is no
    size, for nothing, and for more than 64 TiB."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _FACTORS[(match[2] or "G")[0].upper()]) if match else 0
    if not 0 < size <= LARGEST_BYTES:
        raise click.BadParameter(f"{text[:40]!r} is not a memory size; write for example 4GiB or 3500MiB", param_hint=option)
    return size


def rig_of_this_machine(cards_text: str | None = None, card_memory: str | None = None, host_ram: str | None = None) -> Rig:
    """1. --cards: exactly those. 2. Cards that the drivers show. 3. None: one simulated CPU card with a memory budget.
    Cards of 1 and 2 carry the profile that `rigserve probe --save` found for their UUID, all of them what `rigserve calibrate` lists for
    their kind.
    """
    found = detect()
    host, notes = _host(found.host, host_ram, described=cards_text is not None)
    wish = card_memory if card_memory is not None else os.environ.get("RIGSERVE_CARD_MEMORY") or None
    budget = size_bytes(wish, "--card-memory") if wish is not None else _usual_budget_bytes(found.host)
    if card_memory is not None and (cards_text is not None or found.cards):
        notes = (*notes, "--card-memory is the budget of the simulated CPU card and was not used: there are cards")
    # 1
    if cards_text is not None:
        cards, more = _with_what_is_known(parse_cards(cards_text))
        return Rig(host, cards, (*taken_sizes(cards), "cards as described, not detected", *notes, *more))
    # 2
    if found.cards:
        cards, more = _with_what_is_known(found.cards)
        return Rig(host, cards, (*found.notes, *notes, *more))
    # 3
    note = f"no GPU found: using one simulated CPU card with a budget of {gib(budget)} of host memory"
    cards, more = _with_what_is_known((simulated_cpu_card(budget),))
    return Rig(host, cards, (*found.notes, *notes, *more, note, *_beyond(found.host, budget)))


def _with_what_is_known(cards: tuple[Card, ...]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards with their profiles and with what engines were measured to take on their kind."""
    cards, notes = with_profiles(cards)
    try:
        return with_measured(cards, Store(default_path()).all()), notes
    except CalibrationError as error:
        return cards, (*notes, f"planned without measurements: {error}")


def _host(host: Host, wish: str | None, *, described: bool) -> tuple[Host, tuple[str, ...]]:
    """The host to plan for. Described cards are not in this machine: what happens to be free here now and what this CPU can do says nothing
    about them, so it stays unknown until `rigserve doctor` or `up` looks at theirs."""
    if described:
        host = replace(host, cpu_model=None, cpu_count=None, cpu_flags=(), machine=None)
    if wish is not None:
        size = size_bytes(wish, "--host-ram")
        return replace(host, ram_bytes=size, ram_available_bytes=size), ()
    if described:
        note = f"host memory taken as this machine's, {gib(host.ram_bytes)}; --host-ram says another"
        return replace(host, ram_available_bytes=None), (note,)
    return host, ()


def _beyond(host: Host, budget_bytes: int) -> tuple[str, ...]:
    """What to say about a budget that the host hasn't got."""
    for have, word in ((host.ram_bytes, "has"), (host.ram_available_bytes, "has free now")):
        if have is not None and budget_bytes > have:
            return (f"a budget of {gib(budget_bytes)} is more than the {gib(have)} that this host {word}: what is sized may not run here",)
    return ()


def _usual_budget_bytes(host: Host) -> int:
    if host.ram_available_bytes is None:
        return DEFAULT_BUDGET_BYTES
    return min(DEFAULT_BUDGET_BYTES, max(1, int(host.ram_available_bytes * SHARE_OF_AVAILABLE_RAM)))
