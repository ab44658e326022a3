"""result.json as one HTML page that needs nothing else: no script, no other file, no network. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.plots import Plot, figure
from loadtest.report_plots import run_plots, sweep_plots

CSS = (Path(__file__).parent / "report.css").read_text(encoding="utf8")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(result: dict[str, Any]) -> str:
    """The whole page. Every text in it may come from the server, so all of it is escaped."""
    models = " and ".join(name for name in result["models"].values() if name) or "no model"
    title = f"{models}: {'sweep' if result['kind'] == 'sweep' else 'load test'}"
    plots = (sweep_plots(result) if result["kind"] == "sweep" else []) + run_plots(result)
    body = [
        f"<h1>{escape(title)}</h1><p>{escape(result['url'])} · profile {escape(result['profile'])} · {result['mode']} loop · "
        f"{result['window_s']:g} s measured after {result['warmup_s']:g} s of warm-up · {escape(result['started_at'])}</p>",
        _simulated(result), _knee(result), _tiles(result), "<h2>Plots</h2><div class='plots'>", *(figure(plot) for plot in _some(plots)),
        "</div><h2>Times</h2>", _times(result), "<h2>Can these figures be trusted?</h2>", _checks(result), _cards(result), _kinds(result),
        _images(result), _errors(result), _calibration(result), "<h2>How it was made</h2>", _made(result),
    ]  # fmt: skip
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\"><title>{escape(title)}</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _some(plots: Sequence[Plot]) -> list[Plot]:
    return [plot for plot in plots if plot.series]


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """For people; what is unknown says so."""
    if value is None:
        return "unknown"
    return f"{value:,.{digits}g}{' ' + unit if unit else ''}" if abs(value) < 10**digits else f"{value:,.0f}{' ' + unit if unit else ''}"


def _simulated(result: dict[str, Any]) -> str:
    simulated = [card for card, about in result["by_card"].items() if about["simulated"]]
    return f"<p class='warn'>Simulated: {escape(', '.join(simulated))}. Figures of a CPU, not of a GPU.</p>" if simulated else ""


def _knee(result: dict[str, Any]) -> str:
    if "sweep" not in result:
        return ""
    bend = result["sweep"]
    knee, past = number(bend["knee_rps"], "requests/s"), number(bend["saturated_rps"], "requests/s")
    return (
        f"<p><b>Knee: {knee}</b> (99 % of the requests good), saturated from {past if bend['saturated_rps'] else 'no rate that was tried'}."
        " The figures below are of the run at the knee.</p>"
    )


def _tiles(result: dict[str, Any]) -> str:
    share = result["goodput_share"]
    tiles = (
        (number(result["output_tok_s"], "tok/s"), "output"), (number(result["ttft_s"]["p50"], "s"), "TTFT p50"),
        (number(result["ttft_s"]["p95"], "s"), "TTFT p95"), (number(_ms(result["tpot_s"]["p50"]), "ms"), "TPOT p50"),
        (number(result["goodput"], "/s"), "goodput: " + ("unknown share" if share is None else f"{share:.1%} of what was offered")),
        (str(result["requests"]), "requests"), (str(result["failures"]), "failures"), (str(result["shed"]), "shed (429, 503)"),
        *([(number(result["images_per_s"], "/s"), "images")] if result["models"]["image"] else []),
    )  # fmt: skip
    shown = "".join(f"<div><b>{escape(big)}</b><span>{escape(small)}</span></div>" for big, small in tiles)
    return f"<div class='tiles'>{shown}</div>"


def _ms(value: float | None) -> float | None:
    return None if value is None else value * 1000


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{top}</tr>{lines}</table></div>"


def _times(result: dict[str, Any]) -> str:
    names = {"ttft_s": "time to first token", "tpot_s": "time per output token", "itl_s": "between two tokens", "e2e_s": "whole answer",
             "image_s": "image", "refusal_s": "refusal", "shed_s": "shed", "queue_s": "in the server's queue",
             "late_s": "sent late by this client"}
    rows = []
    for key, words in names.items():
        one = result[key]
        if one["n"]:
            between = one["ci95"]["p50"]
            sure = "unknown" if between is None else f"{number(between[0])} to {number(between[1])}"
            rows.append((words, *(number(one[name]) for name in ("p50", "p90", "p95", "p99", "mean", "max")), sure, str(one["n"])))
    return _table(("seconds", "p50", "p90", "p95", "p99", "mean", "max", "p50's 95 % interval", "n"), rows)


def _checks(result: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['name'].replace('_', ' '))}</td><td class='{escape(one['verdict'])}'>{escape(one['verdict'])}</td>"
        f"<td>{escape(one['detail'])}</td></tr>"
        for one in result["checks"]
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("check", "verdict", "why"))
    return f"<div class='scroll'><table><tr>{head}</tr>{rows}</table></div>"


def _cards(result: dict[str, Any]) -> str:
    if not result["by_card"]:
        return ""
    rows = (
        (card, about["name"] or "unknown", {True: "yes", False: "no", None: "unknown"}[about["simulated"]], str(about["requests"]),
         number(about["output_tok_s"]), number(about["watts"]), number(about["output_tok_per_joule"]), number(about["ttft_s"]["p95"]),
         number(_ms(about["tpot_s"]["p50"])))
        for card, about in result["by_card"].items()
    )  # fmt: skip
    head = ("card", "name", "simulated", "requests", "tok/s", "W", "tok/J", "TTFT p95 s", "TPOT p50 ms")
    return "<h2>Cards</h2>" + _table(head, rows)


def _kinds(result: dict[str, Any]) -> str:
    endings = ("ok", "refused", "shed", "failed", "cancelled", "unfinished")
    rows = (
        (kind, str(one["requests"]), *(str(one.get(ending, 0)) for ending in endings), number(one["ttft_s"]["p95"]),
         number(one["e2e_s"]["p95"]))
        for kind, one in result["by_kind"].items()
    )
    return "<h2>Requests by kind</h2>" + _table(("kind", "requests", *endings, "TTFT p95 s", "whole p95 s"), rows)


def _images(result: dict[str, Any]) -> str:
    if not result["images"]:
        return ""
    rows = (
        (one["size"] or "the server's own", str(one["steps"] or "the server's own"), str(one["images"]), number(one["image_s"]["p50"]),
         number(one["image_s"]["p95"])) for one in result["images"]
    )  # fmt: skip
    return "<h2>Images</h2>" + _table(("size", "steps", "images", "p50 s", "p95 s"), rows)


def _errors(result: dict[str, Any]) -> str:
    if not result["errors"]:
        return ""
    rows = ((one["ending"], one["kind"], one["reason"], str(one["count"])) for one in result["errors"])
    return "<h2>What went wrong</h2>" + _table(("ending", "kind", "reason", "count"), rows)


def _calibration(result: dict[str, Any]) -> str:
    calibration = result["calibration"]
    if calibration is None:
        return ""
    rows = (
        (str(row["streams"]), *(number(_ms(row[what][name])) for what in ("ttft_error_s", "tpot_error_s") for name in ("p50", "p95")),
         "unknown" if row["output_tok_s_error"] is None else f"{row['output_tok_s_error']:+.2%}",
         "yes" if row["within_tolerance"] else "no")
        for row in calibration["rows"]
    )  # fmt: skip
    head = ("streams", "TTFT off p50 ms", "p95 ms", "TPOT off p50 ms", "p95 ms", "tok/s off", "within tolerance")
    return f"<h2>This load generator against a server with known times</h2><p>{escape(calibration['at'])}</p>" + _table(head, rows)


def _made(result: dict[str, Any]) -> str:
    packages = result["environment"].get("packages") or {}
    about = {name: value for name, value in result["environment"].items() if name != "packages"} | packages
    about |= {"load generators": result["generator"]["processes"], **result["spec"], "slo": result["slo"]}
    shown = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape('unknown' if value is None else str(value))}</dd>" for name, value in about.items()
    )
    clock = ("Durations are the load generator's monotonic clock. Requests are placed in time by its wall clock: generators on several "
             "machines need synchronised ones.")  # fmt: skip
    return f"<p>{clock}</p><dl>{shown}</dl>"
