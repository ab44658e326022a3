"""Horizontal bars as one inline SVG: no script, no font, no file from elsewhere. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH_PX = 520
LABEL_PX = 220
VALUE_PX = 70
ROW_PX = 27
BAR_PX = 15


@dataclass(frozen=True, slots=True)
class Bar:
    """One row. `value` None: nobody knows, and no bar is drawn. `kind` is a class of the page's stylesheet."""

    label: str
    value: float | None
    words: str
    kind: str = ""


def bars(title: str, rows: Sequence[Bar]) -> str:
    """The chart. The longest bar is the largest value; the scale starts at zero."""
    most = max((row.value for row in rows if row.value is not None), default=0.0)
    height = ROW_PX * len(rows) + 4
    drawn = "".join(_row(row, index, most) for index, row in enumerate(rows))
    axis = f'<line class="axis" x1="{LABEL_PX}" y1="0" x2="{LABEL_PX}" y2="{height}"/>'
    return (
        f'<svg class="bars" viewBox="0 0 {WIDTH_PX} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{drawn}{axis}</svg>"
    )


def _row(row: Bar, index: int, most: float) -> str:
    middle = index * ROW_PX + ROW_PX / 2 + 2
    room = WIDTH_PX - LABEL_PX - VALUE_PX
    width = room * row.value / most if row.value is not None and most > 0 else 0.0
    label = f'<text class="label" x="{LABEL_PX - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(row.label))}</text>'
    bar = ""
    if row.value is not None:
        bar = (
            f'<rect class="bar {escape(row.kind, quote=True)}" x="{LABEL_PX}" y="{middle - BAR_PX / 2:.1f}" width="{max(width, 1):.1f}" '
            f'height="{BAR_PX}" rx="2"><title>{escape(row.label)}: {escape(row.words)}</title></rect>'
        )
    unknown = " unknown" if row.value is None else ""
    value = f'<text class="value{unknown}" x="{LABEL_PX + width + 8:.1f}" y="{middle + 4:.1f}">{escape(row.words)}</text>'
    return label + bar + value


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
