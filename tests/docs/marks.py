"""Parts of a page that are made, not written: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
CONTRIBUTING = PROJECT / "CONTRIBUTING.md"
API_PAGE = PROJECT / "docs" / "api.md"
TROUBLE_PAGE = PROJECT / "docs" / "guides" / "troubleshooting.md"


def pages() -> list[Path]:
    """Every page that a user or a newcomer reads, in order."""
    top = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    return [*top, PROJECT / "docker" / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def between(page: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n?<!-- /{mark} -->", page, re.DOTALL)
    assert found, f"the page has lost its mark <!-- {mark} -->"
    return found[1]


def replaced(page: str, mark: str, text: str) -> str:
    between(page, mark)
    return re.sub(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, count=1, flags=re.DOTALL)


def rooms() -> str:
    """The first two columns of the table of rooms in docs/design.md."""
    page = (PROJECT / "docs" / "design.md").read_text(encoding="utf8")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert lines, "docs/design.md has lost its table of rooms"
    return "\n".join(["| room | what it is |", "|---|---|", *(f"{room} | {what} |" for room, what, *_ in lines)])
