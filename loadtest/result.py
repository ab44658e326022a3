"""From what the load generators wrote to result.json. Pure: rows in, one dict out; result.schema.json says its shape."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from loadtest import SCHEMA
from loadtest.checks import checks
from loadtest.exposition import ServerCounts
from loadtest.figures import curve, interval_of_mean, percentile, rounded, summary
from loadtest.join import joined
from loadtest.profiles import PROFILES
from loadtest.record import Record, from_row
from loadtest.slo import DEFAULT, Slo, read_slo
from loadtest.spec import Spec
from loadtest.timeline import timeline, tokens_between

BATCHES = 10
NO_TEXT_TIMES = {"image", "embeddings", "slow_reader", "wont_fit", "abuse"}
ENDINGS = ("ok", "refused", "shed", "failed", "cancelled", "unfinished")


@dataclasses.dataclass(frozen=True, slots=True)
class Beside:
    """What was seen beside the load itself. The default is: nothing."""

    before: ServerCounts = dataclasses.field(default_factory=ServerCounts)
    after: ServerCounts = dataclasses.field(default_factory=ServerCounts)
    power: tuple[tuple[float, dict[str, float]], ...] = ()
    power_source: str | None = None
    cards: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    marks: tuple[tuple[float, str], ...] = ()
    surroundings: dict[str, Any] = dataclasses.field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    generators: int = 1


def result_of(spec: Spec, rows: Sequence[dict[str, Any]], slo: Slo | None = None, beside: Beside | None = None) -> dict[str, Any]:
    """Everything about one run. Figures are of requests that were due in the window: after the warm-up, before the end."""
    slo, beside = slo or read_slo(DEFAULT), beside or Beside()
    everything = [from_row(row) for row in rows if row["type"] == "request"]
    start = next((row["unix_s"] for row in rows if row["type"] == "started"), None)
    start = min((record.started_unix_s for record in everything), default=0.0) if start is None else start
    skipped = [row["unix_s"] for row in rows if row["type"] == "skipped"]
    answered = [one for one in everything if one.ending not in ("failed", "unfinished")]
    if spec.warmup_s and answered and not any(one.started_unix_s - start >= spec.warmup_s for one in answered):
        # A server so slow that only first requests were answered: those are all there is, and a check says so.
        spec = dataclasses.replace(spec, warmup_s=0.0)
    window_s = max(spec.duration_s - spec.warmup_s, 1e-9)
    measured = [one for one in everything if spec.warmup_s <= one.started_unix_s - start < spec.duration_s]
    missed = [moment for moment in skipped if spec.warmup_s <= moment - start < spec.duration_s]
    busy = [row for row in rows if row["type"] == "generator" and spec.warmup_s < row["unix_s"] - start <= spec.duration_s + 1]
    generator = _generator(busy)
    found: dict[str, Any] = {
        "schema": SCHEMA, "kind": "run", "started_at": datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
        "url": spec.url, "models": {"chat": spec.chat_model, "image": spec.image_model}, "profile": spec.profile, "mode": spec.mode,
        "duration_s": spec.duration_s, "warmup_s": spec.warmup_s, "window_s": rounded(window_s), "seed": spec.seed,
    }
    found |= _counts(spec, measured, missed, window_s) | _times(measured) | _rates(everything, start, spec, window_s)
    found |= _goodput(measured, missed, slo, window_s)
    found |= {
        "slo": slo.to_json(), "tokens": _tokens(measured), "by_kind": _by(measured, "kind"), "errors": _errors(measured),
        "by_card": _by_card(measured, everything, start, spec, window_s, beside), "images": _images(measured),
        "server": joined(everything, beside.before, beside.after), "generator": generator | {"processes": beside.generators},
        "calibration": beside.calibration, "environment": beside.surroundings,
        "marks": [{"t_s": rounded(moment - start), "what": what} for moment, what in beside.marks],
        "power_source": beside.power_source,
        "curves": {"ttft_s": curve(_values(measured, "first_s")), "tpot_s": curve(_values(measured, "tpot_s"))},
        "timeline": timeline(everything, skipped, beside.power, start, spec.duration_s, slo),
        "spec": {name: value for name, value in dataclasses.asdict(spec).items() if name not in ("trace", "prompts")},
    }
    return found | {"checks": checks(found, measured, missed)}


def _counts(spec: Spec, measured: list[Record], missed: list[float], window_s: float) -> dict[str, Any]:
    endings: Counter[str] = Counter(one.ending for one in measured)
    sheds = PROFILES[spec.profile].sheds if spec.profile in PROFILES else False
    failures = endings["failed"] + (0 if sheds else endings["shed"])
    return {
        "requests": len(measured), "failures": failures, **{name: endings[name] for name in ENDINGS if name != "failed"},
        "skipped": len(missed), "http_5xx": sum(1 for one in measured if (one.status or 0) >= 500 and one.ending != "shed"),
        "error_share": rounded(failures / len(measured)) if measured else None,
        "requests_per_s": rounded(sum(1 for one in measured if one.ending == "ok") / window_s),
        "offered_per_s": rounded((len(measured) + len(missed)) / window_s),
    }


def _values(records: Sequence[Record], name: str, ending: str = "ok") -> list[float]:
    """Of streams only, where a first token is meant."""
    chosen = [one for one in records if one.ending == ending and (one.streamed or name not in ("first_s",))]
    return [value for one in chosen if (value := getattr(one, name)) is not None]


def _times(measured: list[Record]) -> dict[str, Any]:
    """Of whole answers. From the moment that a request was due, so waiting for a slow load generator is in them; `late_s` says how much."""
    text = [one for one in measured if one.kind not in NO_TEXT_TIMES]
    return {
        "ttft_s": summary(_values(text, "first_s")), "tpot_s": summary(_values(text, "tpot_s")),
        "itl_s": summary([gap for one in text if one.ending == "ok" for gap in one.gaps_s]), "e2e_s": summary(_values(text, "end_s")),
        "image_s": summary(_values([one for one in measured if one.kind == "image"], "end_s")),
        "refusal_s": summary(_values(measured, "end_s", "refused")), "shed_s": summary(_values(measured, "end_s", "shed")),
        "queue_s": summary(_values(measured, "queue_s")), "late_s": summary([one.late_s for one in measured]),
    }


def _rates(everything: list[Record], start: float, spec: Spec, window_s: float) -> dict[str, Any]:
    """Tokens that came inside the window, whichever request they belong to: a stream that began before it counts with its part."""
    edges = [spec.warmup_s + window_s * i / BATCHES for i in range(BATCHES + 1)]
    batches = [0.0] * BATCHES
    known = False
    for one in everything:
        known = known or bool(one.output_tokens)
        due = one.started_unix_s - start
        for i in range(BATCHES):
            batches[i] += tokens_between(one, edges[i] - due, edges[i + 1] - due)
    rates = [tokens * BATCHES / window_s for tokens in batches]
    done = [one for one in everything if spec.warmup_s <= one.started_unix_s - start + one.end_s < spec.duration_s]
    prompts = [one.prompt_tokens for one in done if one.prompt_tokens is not None]
    images = [one.images for one in done if one.images]
    return {
        "output_tok_s": rounded(fmean(rates)) if known else None, "output_tok_s_ci95": interval_of_mean(rates) if known else None,
        "prompt_tok_s": rounded(sum(prompts) / window_s) if prompts else None,
        "images_per_s": rounded(sum(images) / window_s) if images else None,
    }


def _goodput(measured: list[Record], missed: list[float], slo: Slo, window_s: float) -> dict[str, Any]:
    """Good requests over the window. What should be refused, what this client left or read slowly is no demand; skipped requests are."""
    demand = [one for one in measured if one.ending != "cancelled" and one.kind not in ("wont_fit", "abuse", "slow_reader")]
    good = [one for one in demand if slo.good(one)]
    offered = len(demand) + len(missed)
    return {
        "goodput": rounded(len(good) / window_s) if offered else None, "good_requests": len(good),
        "goodput_share": rounded(len(good) / offered) if offered else None,
        "goodput_tok_s": rounded(sum(one.output_tokens or 0 for one in good) / window_s) if offered else None,
    }


def _tokens(measured: list[Record]) -> dict[str, Any]:
    sources = Counter(one.tokens_source for one in measured if one.tokens_source)
    prompts = [one for one in measured if one.prompt_tokens is not None]
    cached = [one for one in prompts if one.cached_tokens is not None]
    total = sum(one.prompt_tokens or 0 for one in cached)
    return {
        "output_tokens": sum(one.output_tokens or 0 for one in measured) if sources else None,
        "prompt_tokens": sum(one.prompt_tokens or 0 for one in prompts) if prompts else None,
        "source": sources.most_common(1)[0][0] if len(sources) == 1 else ("mixed" if sources else None), "by_source": dict(sources),
        "cached_share": rounded(sum(one.cached_tokens or 0 for one in cached) / total) if total else None,
    }


def _by(measured: list[Record], name: str) -> dict[str, Any]:
    groups: dict[str, list[Record]] = {}
    for one in measured:
        groups.setdefault(getattr(one, name), []).append(one)
    return {
        key: {
            "requests": len(group), **Counter(one.ending for one in group), "ttft_s": _short(_values(group, "first_s")),
            "tpot_s": _short(_values(group, "tpot_s")), "e2e_s": _short([one.end_s for one in group if one.ending in ("ok", "refused")]),
        }
        for key, group in sorted(groups.items())
    }


def _short(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    return {f"p{percent}": rounded(percentile(ordered, percent)) for percent in (50, 95, 99)} | {"n": len(values)}


def _by_card(
    measured: list[Record], everything: list[Record], start: float, spec: Spec, window_s: float, beside: Beside
) -> dict[str, Any]:
    """By the card that the server's answers name; watts are the mean over the window."""
    found = {}
    watts: dict[str, list[float]] = {}
    for moment, values in beside.power:
        if spec.warmup_s <= moment - start < spec.duration_s:
            for card, value in values.items():
                watts.setdefault(card, []).append(value)
    for card in sorted({one.card for one in measured if one.card} | set(watts)):
        mine = [one for one in measured if one.card == card]
        tokens = sum(
            tokens_between(one, spec.warmup_s - one.started_unix_s + start, spec.duration_s - one.started_unix_s + start)
            for one in everything if one.card == card
        )  # fmt: skip
        about = beside.cards.get(card, {})
        power = fmean(watts[card]) if card in watts else None
        rate = tokens / window_s if mine else None
        found[card] = {
            "name": about.get("name"), "simulated": about.get("simulated"), "requests": len(mine), "output_tok_s": rounded(rate),
            "watts": rounded(power), "output_tok_per_joule": rounded(rate / power) if rate is not None and power else None,
            "ttft_s": _short(_values(mine, "first_s")), "tpot_s": _short(_values(mine, "tpot_s")),
            "images": sum(one.images or 0 for one in mine),
        }
    return found


def _images(measured: list[Record]) -> list[dict[str, Any]]:
    """One row a size and number of steps."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for one in measured:
        if one.kind == "image" and one.ending == "ok":
            groups.setdefault((one.size or "", one.steps or 0), []).append(one)
    return [
        {"size": size or None, "steps": steps or None, "images": sum(one.images or 0 for one in group),
         "image_s": _short([one.end_s for one in group])}
        for (size, steps), group in sorted(groups.items())
    ]  # fmt: skip


def _errors(measured: list[Record]) -> list[dict[str, Any]]:
    found = Counter((one.ending, one.kind, one.reason or "") for one in measured if one.ending in ("failed", "shed", "unfinished"))
    return [{"ending": ending, "kind": kind, "reason": reason[:200], "count": n} for (ending, kind, reason), n in found.most_common(20)]


def _generator(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How busy the load generators were: their event loops' lag is an error that every time here may hold."""
    lags = [lag for row in rows for lag in row["lags_s"]]
    return {"loop_lag_s": summary(lags), "cpu_percent_max": max((row["cpu_percent"] for row in rows), default=None)}
