"""What the rules are given, and the questions that several of them ask of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.doctor.finding import Finding, Severity
from services.doctor.readings import CardHealth, Cards, Readings
from services.hardware.pci import NVIDIA, of_vendor
from services.sizing.cards import identify, spec_of
from services.sizing.engine_table import Capability, capability_of
from services.sizing.types import Card, CardSpec, Plan

MAXWELL: Capability = (5, 0)
TURING: Capability = (7, 5)


@dataclass(frozen=True, slots=True)
class Case:
    """`image_bytes`: what an engine environment takes on disk, None where nobody measured it. `port` is the gateway's."""

    readings: Readings
    plan: Plan | None = None
    port: int = 8000
    image_bytes: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Board:
    """An NVIDIA card, whether its driver answers (`card`) or only the bus shows it. capability None: in no table."""

    subject: str
    name: str
    address: str | None
    capability: Capability | None
    card: Card | None = None


def cards_of(case: Case) -> tuple[Card, ...]:
    """The cards that answered; none when the drivers did not."""
    found = case.readings.cards
    return found.cards if isinstance(found, Cards) else ()


def health_of(case: Case, card: Card) -> CardHealth:
    found = case.readings.cards
    known = found.health if isinstance(found, Cards) else ()
    return next((health for health in known if health.card_id == card.id), CardHealth(card.id))


def named(card: Card) -> str:
    return f"{card.name} ({card.pci_address or card.id})"


def boards(case: Case) -> tuple[Board, ...]:
    """Every NVIDIA card that the driver lists or the bus shows, in that order."""
    listed = [card for card in cards_of(case) if card.vendor == "nvidia"]
    found = [Board(card.id, named(card), card.pci_address, capability_of(card, spec_of(card)), card) for card in listed]
    addresses = {card.pci_address for card in listed}
    for device in of_vendor(case.readings.bus, NVIDIA):
        if device.address not in addresses:
            spec = identify("", None, device.device_id)
            name = f"{spec.key if spec else 'NVIDIA card ' + device.device_id} ({device.address})"
            found.append(Board(device.address, name, device.address, _capability(spec)))
    return tuple(found)


def _capability(spec: CardSpec | None) -> Capability | None:
    major, _, minor = (spec.compute_capability if spec and spec.compute_capability else "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def is_legacy(board: Board) -> bool:
    """Maxwell, Pascal or Volta: driver branch 580 is their last."""
    return board.capability is not None and MAXWELL <= board.capability < TURING


def driver_version(case: Case) -> str | None:
    """NVIDIA's driver: as the cards say, as loaded or installed, or as the kernel log names it."""
    said = next((card.driver_version for card in cards_of(case) if card.vendor == "nvidia" and card.driver_version), None)
    return said or case.readings.driver.version or getattr(case.readings.log, "ignored_by", None)


def branch_of(version: str | None) -> int | None:
    """580 of 580.126.18."""
    head = (version or "").partition(".")[0]
    return int(head) if head.isdigit() else None


def version_of(text: str) -> tuple[int, ...]:
    """(26, 1, 5) of 26.1.5+dfsg1: the leading numbers, for comparing."""
    numbers = []
    for part in text.split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def on_card(
    severity: Severity, card: Card, seen: str, why: str = "", source: str = "", fix: str | None = None, advice: str = ""
) -> Finding:
    """A finding on one card."""
    return Finding(severity, card.id, named(card), seen, why, source, fix, advice)
