"""loadtest imports nothing of services, and its pure parts nothing of locust: results can be read where it is not installed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "loadtest"
UNDER_GEVENT = {"locustfile.py", "users.py", "exchange.py", "collect.py"}


def heads_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_borders(path: Path) -> None:
    heads = heads_of(path)
    assert "services" not in heads
    assert "tests" not in heads
    if path.name not in UNDER_GEVENT:
        assert not heads & {"locust", "gevent", "geventhttpclient", "psutil"}


def test_no_module_hides_one_of_the_standard_library() -> None:
    """Locust puts this folder itself on the path."""
    import sys

    assert not {path.stem for path in ROOM.glob("*.py")} & set(sys.stdlib_module_names)


def test_the_page_needs_nothing_else() -> None:
    css = (ROOM / "report.css").read_text(encoding="utf8")
    assert "url(" not in css
    assert "@import" not in css
    json.loads((ROOM / "result.schema.json").read_text(encoding="utf8"))
