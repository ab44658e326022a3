"""`rigserve detect`: what is in this machine."""

from __future__ import annotations

import click
from rich.table import Table

from services.cli.output import console, gib, json_option, print_json
from services.hardware.detect import Detection
from services.hardware.detect import detect as detect_hardware


@click.command(epilog="Example: rigserve detect --json")
@json_option
def detect(as_json: bool) -> None:
    """Show the cards, drivers, PCIe links and host memory of this machine."""
    found = detect_hardware()
    if as_json:
        print_json(found)
        return
    out = console()
    host = found.host
    out.print(f"Host: {host.cpu_model or 'unknown CPU'}, {host.cpu_count or '?'} CPUs, {gib(host.ram_bytes)} RAM "
              f"({gib(host.ram_available_bytes)} available)")
    out.print(_table(found) if found.cards else "No GPU found: `rigserve serve` would use one simulated CPU card.")
    for note in found.notes:
        out.print(f"note: {note}")


def _table(found: Detection) -> Table:
    table = Table("card", "name", "memory", "free", "compute", "driver", "PCIe now", "known as")
    for card in found.cards:
        link = f"gen{card.link.generation or '?'} x{card.link.width or '?'}" if card.link else "unknown"
        table.add_row(card.id, card.name, gib(card.total_bytes), gib(card.free_bytes), card.compute_capability or card.gfx or "unknown",
                      card.driver_version or "unknown", link, card.spec or "not in the catalogue")
    return table
