"""The two tables of docs/images.md, made from the image table and from measured sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from services.deploy.images import Image

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
SIZE = re.compile(r"^\| `([^`]+)` \| ([\d ]+) MB \|$", re.MULTILINE)


def image_rows(images: Mapping[str, Image], version: str) -> str:
    titles = ("environment", "image", "base", "cards", "compute capability", "driver", "built and run here")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for image in images.values():
        cells = (
            f"`{image.environment}`", f"`{image.reference(version)}`", f"`{image.base}`", image.cards,
            f"{image.compute_capability_from}+" if image.compute_capability_from else "–",
            f"{image.driver_floor}+" if image.driver_floor else "–", "yes" if image.run_here else "no",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def size_rows(added_mb: Mapping[str, int]) -> str:
    lines = ["| image | over its base |", "| --- | --- |"]
    return "\n".join(lines + [f"| `{name}` | {mb:,} MB |".replace(",", " ") for name, mb in added_mb.items()])


def between(page: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n?<!-- /{mark} -->", page, re.DOTALL)
    assert found, f"docs/images.md has lost its mark <!-- {mark} -->"
    return found[1]


def replaced(page: str, mark: str, rows: str) -> str:
    between(page, mark)
    return re.sub(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", lambda m: f"{m[1]}{rows}\n{m[2]}", page, count=1, flags=re.DOTALL)


def recorded_mb(page: str) -> dict[str, int]:
    return {m[1]: int(m[2].replace(" ", "")) for m in SIZE.finditer(between(page, "sizes"))}
