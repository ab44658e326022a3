"""Rows as aligned lines of text, as wide as they need to be: a terminal may wrap them, a pipe gets them whole."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "   "


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Each row as a line, its cells padded to the widest of their column; the last column is left as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [GAP.join([cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)] + [row[-1]]).rstrip() for row in rows]
