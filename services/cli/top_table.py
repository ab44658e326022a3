"""The report of `GET /v1/throughput` as a table: a row for each card and model. Pure. Colours only repeat what words say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

UNKNOWN = "-"
MAKERS = ("NVIDIA ", "AMD ", "GeForce ", "Radeon ")
GOOD, DOUBTFUL = ("ready",), ("starting", "loading", "warming", "restarting", "draining", "unloaded", "unloading")


@dataclass(frozen=True, slots=True)
class Row:
    """One placement, with its card and model as the report tells them; {} where there is none."""

    backend: dict[str, Any]
    card: dict[str, Any]
    model: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """A column: shown where the terminal is at least so wide."""

    title: str
    of: Callable[[Row], str]
    columns_wide: int = 0
    right: bool = True


def rate(value: float | None) -> str:
    """Three digits. Worked numbers: 0.1234 -> 0.123, 12.34 -> 12.3, 1234.5 -> 1234."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """Worked numbers: 0.0421 -> 42 ms, 1.234 -> 1.23 s."""
    if value is None:
        return UNKNOWN
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.3g} s"


def late(percentiles: dict[str, Any]) -> str:
    """p95 and of how many."""
    return f"{seconds(percentiles['p95'])} ({percentiles['n']})" if percentiles["n"] else UNKNOWN


def clean(text: Any) -> str:
    """Names come from drivers and other servers: none of them may steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def _name(row: Row) -> str:
    if row.backend["card"] is None:
        return "not known"
    name = clean(row.backend["card_name"])
    for maker in MAKERS:
        name = name.removeprefix(maker)
    return name + (" (simulated)" if row.backend["simulated"] and "simulated" not in name.lower() else "")


def _id(row: Row) -> str:
    """As much of a card's id as tells it from others of its kind; of a --backend its own."""
    card = row.backend["card"]
    return clean(card).removeprefix("GPU-")[:8] if card is not None else clean(row.backend["id"])


def _state(row: Row) -> str:
    own, card = clean(row.backend["state"]), row.card.get("state")
    return own if card in (None, "ok") else f"{own}, card {clean(card)}"


def _celsius(row: Row) -> str:
    value = row.card.get("temperature_c")
    return UNKNOWN if value is None else f"{value:.0f}"


CELLS = (
    Cell("card", _name, right=False), Cell("id", _id, 110, right=False),
    Cell("model", lambda row: clean(row.backend["model"]), right=False), Cell("state", _state, right=False),
    Cell("prompt tok/s", lambda row: rate(row.backend["prompt_tokens_per_s"]), 140),
    Cell("tok/s", lambda row: rate(row.backend["output_tokens_per_s"])),
    Cell("images/s", lambda row: rate(row.backend["images_per_s"]), 150),
    Cell("steps/s", lambda row: rate(row.backend["denoise_steps_per_s"]), 90),
    Cell("TTFT p95 (n)", lambda row: late(row.backend["ttft_s"]), 80), Cell("TPOT p95 (n)", lambda row: late(row.backend["tpot_s"]), 130),
    Cell("seats", lambda row: f"{row.backend['running']}/{row.backend['slots'] or '?'}", 80),
    Cell("queue", lambda row: str(row.model.get("waiting", UNKNOWN)), 100),
    Cell("W", lambda row: rate(row.card.get("power_watts")), 80),
    Cell("tok/J", lambda row: rate(row.backend["serving"]["output_tokens_per_joule"]), 100), Cell("°C", _celsius, 120),
    Cell("of predicted", lambda row: percent(row.backend["predicted"]["of_predicted"]), 160),
)  # fmt: skip


def rows_of(told: dict[str, Any]) -> list[Row]:
    """In the order of cards, then of models."""
    cards, models = ({one["id"]: one for one in told[name]} for name in ("cards", "models"))
    order = {ident: number for number, ident in enumerate(cards)}
    rows = [Row(one, cards.get(one["card"], {}), models.get(one["model"], {})) for one in told["backends"]]
    return sorted(rows, key=lambda row: order.get(row.backend["card"], len(order)))


def table_of(told: dict[str, Any], url: str, columns_wide: int) -> RenderableType:
    """For a terminal of that width: the totals, the rows, then what was refused and what is wrong."""
    shown = [cell for cell in CELLS if columns_wide >= cell.columns_wide]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for cell in shown:
        table.add_column(cell.title, justify="right" if cell.right else "left", no_wrap=cell.right, overflow="fold")
    rows = rows_of(told)
    for row in rows:
        table.add_row(*(Text(cell.of(row), style=_style(row) if cell.title == "state" else "") for cell in shown))
    idle = sorted({clean(card["name"]) for card in told["cards"] if not card["models"]})
    lines = [f"nothing is placed on: {', '.join(idle)}"] if idle else []
    return Group(Text(head(told, url), style="bold"), Text(""), table if rows else Text("this gateway serves nothing"), Text(""),
                 *(Text(line) for line in [*lines, *remarks(told)]))


def head(told: dict[str, Any], url: str) -> str:
    all_of = told["totals"]
    figures = [(rate(all_of["requests_per_s"]), "requests/s"), (rate(all_of["output_tokens_per_s"]), "tok/s"),
               (rate(all_of["images_per_s"]), "images/s"), (rate(all_of["watts"]), "W"), (rate(all_of["output_tokens_per_joule"]), "tok/J"),
               (str(all_of["running"]), "running"), (str(all_of["waiting"]), "waiting")]  # fmt: skip
    said = " · ".join(f"{value} {unit}" for value, unit in figures if value != UNKNOWN)
    return f"{url} · {told['as_of']} · last {told['window']}\n{said}"


def remarks(told: dict[str, Any]) -> list[str]:
    """What was refused in the window, cards that are not well, models past their knee."""
    refused = told["totals"]["refused"]
    found = [f"refused: {', '.join(f'{clean(code)} {count}' for code, count in sorted(refused.items()))}"] if refused else []
    for card in told["cards"]:
        if card["state"] not in (None, "ok"):
            found.append(f"{clean(card['name'])} ({clean(card['id'])}): {clean(card['state'])}: {clean(card['state_reason'])}")
    for model in told["models"]:
        load = model["capacity"]["load"]
        if load is not None and load >= 1:
            found.append(f"{clean(model['id'])}: past its knee: {percent(load)} of {rate(model['capacity']['knee_rps'])} requests/s")
    return found


def _style(row: Row) -> str:
    if row.backend["state"] in GOOD and row.card.get("state") in (None, "ok"):
        return "green"
    return "yellow" if row.backend["state"] in (*GOOD, *DOUBTFUL) and row.card.get("state") != "lost" else "red"
