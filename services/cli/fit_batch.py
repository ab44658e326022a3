"""`rigserve fit --batch`: one JSON answer for each line of a file of cases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

MAX_LINE_BYTES = 2**20


def answers(path: Path) -> Iterator[str]:
    """One line of JSON per case, in the order of the file; a bad line becomes an error line, never the end of the run.

    The file is read line by line, so its length costs no memory. Raises ClickException when it can't be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise click.ClickException(f"{path} line {number} is longer than {MAX_LINE_BYTES} bytes; that is no case.")
                if line.strip():
                    yield json.dumps(_answer(number, line.decode("utf8", errors="replace")))
    except OSError as error:
        raise click.ClickException(f"{path} can't be read: {error.strerror}") from error


def _answer(number: int, line: str) -> dict[str, Any]:
    from services.sizing.cases import evaluate  # its table of geometries is read on import; no other command needs it

    try:
        case = json.loads(line)
    except ValueError as error:
        return {"id": None, "error": f"line {number} is not JSON: {error}"}
    except RecursionError:
        return {"id": None, "error": f"line {number} is not a case: its brackets are nested too deeply"}
    return evaluate(case) if isinstance(case, dict) else {"id": None, "error": f"line {number} is not a JSON object"}
