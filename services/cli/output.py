"""How the commands print: one JSON document with --json, else plain text made for a terminal of any width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from services.sizing.planfile import to_json

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


class OutputFile(click.Path):
    """A file to write. Nothing at all ("", an unset shell variable) is an error, not the current folder."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("the name of the file is empty.", param, ctx)
        return super().convert(value, param, ctx)


def print_json(value: Any) -> None:
    """Any of sizing's types, or plain data."""
    click.echo(json.dumps(to_json(value), indent=2, ensure_ascii=False))


def console() -> Console:
    """Standard output as a rich console; colours only where it is a terminal."""
    return Console(highlight=False, soft_wrap=False)


def gib(size_bytes: int | None) -> str:
    """`1.25 GiB`, `640 MiB`, or `unknown`."""
    if size_bytes is None:
        return "unknown"
    return f"{size_bytes / 2**30:.2f} GiB" if abs(size_bytes) >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
