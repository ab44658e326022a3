"""Small line and scatter plots as SVG, coloured by the page's CSS variables, so that light and dark need no second drawing. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
COLOURS = 6
Spot = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """`spots` with y None are gaps in the line. `dots`: each spot is shown. `labels`: what a spot says when pointed at."""

    name: str
    spots: Sequence[Spot]
    line: bool = True
    dots: bool = False
    dashed: bool = False
    labels: Sequence[str] = ()
    shown_as: int | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    x: str
    y: str
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = ()
    top: float | None = None
    about: str = ""
    unknown: str = "nothing was measured"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from low to high. Worked number: 0 to 9.3: 0, 2, 4, 6, 8."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(math.floor(high / step + 1e-9) - first + 1)]


def figure(plot: Plot) -> str:
    """The plot with its heading, legend, and its data as a table to open: also for those who do not see it."""
    known = [spot for series in plot.series for spot in series.spots if spot[1] is not None]
    head = f"<h3>{escape(plot.title)}</h3>" + (f"<p class='about'>{escape(plot.about)}</p>" if plot.about else "")
    if not known:
        return f"<figure>{head}<p class='none'>{escape(plot.unknown)}</p></figure>"
    return f"<figure>{head}{_legend(plot)}{_svg(plot, known)}{_table(plot)}</figure>"


def _colour(plot: Plot, number: int) -> int:
    shown = plot.series[number].shown_as
    return (number if shown is None else shown) % COLOURS + 1


def _legend(plot: Plot) -> str:
    if len(plot.series) < 2:
        return ""
    names = (
        f"<span><i class='c{_colour(plot, i)}{' dashed' if one.dashed else ''}'></i>{escape(one.name)}</span>"
        for i, one in enumerate(plot.series)
    )
    return f"<p class='legend'>{''.join(names)}</p>"


def _svg(plot: Plot, known: Sequence[Spot]) -> str:
    low_x, high_x = min(x for x, _ in known), max(x for x, _ in known)
    low_x = 0.0 if low_x >= 0 else low_x
    high_x = high_x if high_x > low_x else low_x + 1
    high_y = plot.top if plot.top is not None else max(y for _, y in known if y is not None) * 1.05
    high_y = high_y if high_y > 0 else 1.0

    def at_x(x: float) -> float:
        return round(LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT), 1)

    def at_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - min(1.0, y / high_y) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(plot.title)}: {escape(plot.y)} over {escape(plot.x)}'>"]
    for value in ticks(0, high_y):
        y = at_y(value)
        parts.append(f"<path class='grid' d='M{LEFT} {y}H{WIDTH - RIGHT}'/><text class='ty' x='{LEFT - 6}' y='{y + 4}'>{value:g}</text>")
    for value in ticks(low_x, high_x, 7):
        parts.append(f"<text class='tx' x='{at_x(value)}' y='{HEIGHT - BOTTOM + 16}'>{value:g}</text>")
    parts.append(f"<path class='axis' d='M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}'/>")
    parts.append(f"<text class='tx' x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 6}'>{escape(plot.x)}</text>")
    parts.append(f"<text class='label' transform='translate(13 {HEIGHT / 2 - 10}) rotate(-90)'>{escape(plot.y)}</text>")
    for x, what in plot.marks:
        if low_x <= x <= high_x:
            side, shift = ("said left", -3) if at_x(x) > 0.7 * WIDTH else ("said", 3)  # a word at the right edge would be cut
            parts.append(f"<path class='mark' d='M{at_x(x)} {TOP}V{HEIGHT - BOTTOM}'/>")
            parts.append(f"<text class='{side}' x='{at_x(x) + shift}' y='{TOP + 9}'>{escape(what)}</text>")
    for number, series in enumerate(plot.series):
        parts.append(_drawn(series, _colour(plot, number), at_x, at_y))
    return "".join(parts) + "</svg>"


def _drawn(series: Series, colour: int, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> str:
    parts, path, up = [], [], True
    for x, y in series.spots:
        if y is None:
            up = True
            continue
        path.append(f"{'M' if up else 'L'}{at_x(x)} {at_y(y)}")
        up = False
    if series.line and path:
        parts.append(f"<path class='line c{colour}{' dashed' if series.dashed else ''}' d='{''.join(path)}'/>")
    if series.dots or not series.line or len(path) == 1:
        for number, (x, y) in enumerate(series.spots):
            if y is not None:
                said = series.labels[number] if number < len(series.labels) else f"{series.name}: {x:g}, {y:g}"
                parts.append(f"<circle class='dot c{colour}' cx='{at_x(x)}' cy='{at_y(y)}' r='3.5'><title>{escape(said)}</title></circle>")
    return "".join(parts)


def _table(plot: Plot) -> str:
    rows: dict[float, dict[int, float]] = {}
    for number, series in enumerate(plot.series):
        for x, y in series.spots:
            if y is not None:
                rows.setdefault(x, {})[number] = y
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in (plot.x, *(series.name for series in plot.series)))
    body = "".join(
        f"<tr><td>{x:g}</td>{''.join(f'<td>{values[i]:.4g}</td>' if i in values else '<td>–</td>' for i in range(len(plot.series)))}</tr>"
        for x, values in sorted(rows.items())
    )
    return f"<details><summary>data</summary><div class='scroll'><table><tr>{head}</tr>{body}</table></div></details>"
