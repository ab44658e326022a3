"""The golden example: a rig of nine cards, six kinds, two vendors, 8 GB of RAM. `python -m tests.deploy.nine_cards` writes it anew.

The rig is made up: its UUIDs, PCI addresses and render node belong to no machine. With --plan the plan is made anew as well; without it the
committed plan.yaml stays, so that a change of the catalogue does not change the example.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from services.deploy.build import stack_of
from services.deploy.files import Here, stack_files
from services.deploy.images import load_images
from services.deploy.names import service_names
from services.deploy.options import Options
from services.deploy.stack import Stack
from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import decide
from services.sizing.planfile import dump_plan, load_plan
from services.sizing.types import Host, Plan
from services.worker.engines.shown import shown

FOLDER = Path(__file__).parents[2] / "docker" / "examples" / "nine-cards"
CARDS = (
    "P104-100 8GB@gen1x1#GPU-00000000-0000-4000-8000-000000000001, P104-100 8GB@gen1x1#GPU-00000000-0000-4000-8000-000000000002,"
    "P104-100 8GB@gen1x1#GPU-00000000-0000-4000-8000-000000000003, P106-100@gen1x1#GPU-00000000-0000-4000-8000-000000000004,"
    "P106-100@gen1x1#GPU-00000000-0000-4000-8000-000000000005, GTX 1660 SUPER@gen1x1#GPU-00000000-0000-4000-8000-000000000006,"
    "RTX 3060 Ti@gen3x16#GPU-00000000-0000-4000-8000-000000000007, CMP 40HX@gen1x1#GPU-00000000-0000-4000-8000-000000000008,"
    "RX 580 8GB@gen1x1#0000:0a:00.0"
)
RENDER_GID = 105
NOTE = "# An example: this rig is made up, and so are its UUIDs, its PCI address and its render node.\n"


def plan() -> Plan:
    """Each P104-100 serves the same model, so that one can be upgraded while two answer; the RTX 3060 Ti makes the pictures."""
    host = Host(8 * 2**30, 8 * 2**30, "Intel(R) Celeron(R) CPU G3930 @ 2.90GHz", 2, ("sse4_2",), "x86_64")
    cards = tuple(
        replace(card, driver_version="580.95.05" if card.vendor == "nvidia" else None, note="Made up.",
                **({"pci_address": card.id, "render_node": "/dev/dri/renderD128"} if card.vendor == "amd" else {}))
        for card in parse_cards(CARDS)
    )
    return decide(host, cards, load_catalogue()).plan


def example() -> tuple[Stack, dict[str, str]]:
    """The stack of the committed plan, and the files of its folder."""
    text = (FOLDER / "plan.yaml").read_text(encoding="utf8")
    committed = load_plan(FOLDER / "plan.yaml")
    lines = shown(committed, load_catalogue(), service_names(p.id for p in committed.placements))
    stack = stack_of(committed, load_images(), Options("0.1.0", "nine-cards"), lines)
    files = stack_files(stack, committed, text, Here(source="../../..", render_gid=RENDER_GID))
    return stack, {name: body if name in ("plan.yaml", "endpoints.json") else NOTE + body for name, body in files.items()}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if "--plan" in sys.argv or not (FOLDER / "plan.yaml").is_file():
        (FOLDER / "plan.yaml").write_text(NOTE + dump_plan(plan()), encoding="utf8")
    for name, text in example()[1].items():
        (FOLDER / name).write_text(text, encoding="utf8")
        print(f"written: {FOLDER / name}")


if __name__ == "__main__":
    main()
