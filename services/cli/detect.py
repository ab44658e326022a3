"""`rigserve detect`: what is in this machine."""

from __future__ import annotations

from dataclasses import replace

import click

from services.cli.columns import aligned
from services.cli.output import gib, json_option, print_json
from services.cli.profiles import with_profiles
from services.hardware.detect import detect as detect_hardware
from services.sizing.types import Card


@click.command(epilog="Example: rigserve detect --json")
@json_option
def detect(as_json: bool) -> None:
    """Show the cards, drivers, PCIe links and host memory of this machine."""
    found = detect_hardware()
    cards, notes = with_profiles(found.cards)
    found = replace(found, cards=cards, notes=found.notes + notes)
    if as_json:
        print_json(found)
        return
    host = found.host
    click.echo(f"Host: {host.cpu_model or 'unknown CPU'}, {host.cpu_count or '?'} CPUs, {gib(host.ram_bytes)} RAM "
               f"({gib(host.ram_available_bytes)} available)")
    click.echo("\n".join(_lines(found.cards)) if found.cards else "No GPU found: `rigserve serve` would use one simulated CPU card.")
    for note in found.notes:
        click.echo(f"note: {note}")


def _lines(cards: tuple[Card, ...]) -> list[str]:
    rows = [("card", "name", "memory", "free", "compute", "driver", "PCIe now", "known as")]
    for card in cards:
        link = f"gen{card.link.generation or '?'} x{card.link.width or '?'}" if card.link else "unknown"
        rows.append((card.id, card.name, gib(card.total_bytes), gib(card.free_bytes), card.compute_capability or card.gfx or "unknown",
                     card.driver_version or "unknown", link, _known_as(card)))
    return aligned(rows)


def _known_as(card: Card) -> str:
    if card.spec is None:
        return "not in the catalogue"
    return f"{card.spec} ({card.profile}, as measured)" if card.profile else card.spec
