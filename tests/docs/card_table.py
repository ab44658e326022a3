"""The README's "what can my rig serve": twelve cards, asked of `rigserve advise --json`; every figure is that command's."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from services.cli.main import main
from services.sizing.cards import load_cards
from services.sizing.catalogue import load_catalogue

# Names as a user writes them; a rig's host memory, so that the engines are a rig's too.
CARDS = ("P106-100", "P104-100 8GB", "P102-100 10GB", "CMP 40HX", "CMP 50HX", "CMP 170HX 8GB", "GTX 1060 3GB", "GTX 1060 6GB",
         "GTX 1660 Super", "RTX 3060 Ti", "RTX 3080 10GB", "RX 580 8GB")  # fmt: skip
HOST_RAM = "8GiB"
COMMAND = ("advise", "--cards", ",".join(CARDS), "--host-ram", HOST_RAM, "--json")
MARK = "cards"


def ask() -> dict[str, Any]:
    answer = CliRunner().invoke(main, COMMAND)
    assert answer.exit_code == 0, answer.output
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def table(advice: dict[str, Any]) -> str:
    """Best: the first that `advise` lists. Quickest: the highest predicted speed of those it lists (images: else the first)."""
    rows = ["| card | memory | models that fit | best chat model | quickest chat model | images |", "|---|---|---|---|---|---|"]
    asked = [name for card in advice["cards"] for name in [CARDS[int(card["card_ids"][0].removeprefix("card-"))]]]
    for name, card in zip(asked, advice["cards"], strict=True):
        chat = [offer for offer in card["offers"] if offer["work"] in ("chat", "chat with pictures")]
        images = [offer for offer in card["offers"] if offer["work"] == "image"]
        best = next((offer for offer in chat if offer["work"] == "chat"), None)
        cells = (name, f"{card['total_bytes'] / 2**30:.1f} GiB", str(card["servable"]), words(best),
                 words(quickest(chat, "decode_tok_s"), "unknown"), words(quickest(images, "images_per_min") or next(iter(images), None)))
        rows.append(f"| {' | '.join(cells)} |")
    known = f"{len(load_cards())} cards and {len(load_catalogue().models)} models are known"
    return "\n".join([*rows, "", f"*{known}; any other card works from what its driver says.*"])


def quickest(offers: list[dict[str, Any]], speed: str) -> dict[str, Any] | None:
    """None where no speed is known: then there is no quickest."""
    known = [offer for offer in offers if offer[speed] is not None]
    return max(known, key=lambda offer: offer[speed], default=None)


def words(offer: dict[str, Any] | None, without: str = "none") -> str:
    if offer is None:
        return without
    speed = "speed unknown"
    if offer["decode_tok_s"] is not None:
        speed = f"{offer['decode_tok_s']:.0f} tok/s"
    elif offer["images_per_min"] is not None:
        speed = f"{offer['images_per_min']:.1f} images/min"
    return f"{offer['model_id']} {offer['quant']}, {speed}"
