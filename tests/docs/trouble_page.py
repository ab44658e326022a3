"""The table of docs/guides/troubleshooting.md, from the error tree (`services/wire/errors.py`) and the entries below it on that page."""

from __future__ import annotations

import re

from services.wire.errors import ApiError

MARK = "codes"
ENTRY = re.compile(r"^### ([a-z_]+)\n(.+?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def codes() -> dict[str, type[ApiError]]:
    """Every error code with a class that says it; by status, then by name."""
    found: dict[str, type[ApiError]] = {}
    waiting: list[type[ApiError]] = [ApiError]
    while waiting:
        error = waiting.pop()
        found[error.code] = error
        waiting += error.__subclasses__()
    return dict(sorted(found.items(), key=lambda item: (item[1].status, item[0])))


def entries(page: str) -> dict[str, str]:
    """What the page says about each code."""
    return {code: text.strip() for code, text in ENTRY.findall(page)}


def table(page: str) -> str:
    """A row for each code, with the first sentence of its entry."""
    said = entries(page)
    rows = ["| code | status | again? | in short |", "|---|---|---|---|"]
    for code, error in codes().items():
        short = " ".join(said.get(code, "").split("**Do:**")[0].split())
        first = re.split(r"(?<=[.])\s", short)[0]
        rows.append(f"| [`{code}`](#{code}) | {error.status} | {'no' if error.should_retry is False else 'yes'} | {first} |")
    return "\n".join(rows)
