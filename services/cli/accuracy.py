"""Predicted beside measured, as text: for `rigserve status --accuracy` (what runs now) and `rigserve calibrate` (all that was kept)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import click

from services.calibration.record import HERE, Observation
from services.cli.columns import aligned
from services.cli.output import gib
from services.cli.report_text import workload_text

DEFAULT_URL = "http://127.0.0.1:8000"
HEAD = ("card", "model", "engine", "workload", "memory: predicted", "measured", "drift", "load s: pred.", "meas.", "drift",
        "speed: predicted", "measured", "drift", "runs", "from")


def ask(url: str, path: str, timeout_s: float = 5.0) -> Any:
    """GET a JSON document of a gateway. OSError when nobody answers."""
    request = urllib.request.Request(url.rstrip("/") + path, headers={"Accept": "application/json"})  # noqa: S310 - http(s), checked
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        return json.load(answer)


def asked_cards(url: str) -> Any:
    """GET /v1/cards. Raises ClickException or BadParameter with a sentence."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not an http(s) URL", param_hint="--url")
    try:
        return ask(url, "/v1/cards")
    except urllib.error.HTTPError as error:
        raise click.ClickException(f"the gateway at {url} answered {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"no gateway answers at {url} ({error}); start one with `rigserve serve`") from error


def observations_in(cards: Any) -> list[Any]:
    """What the workers behind /v1/cards have measured, as plain data; placements that have not, have none."""
    statuses = [placement.get("status") or {} for card in cards["data"] for placement in card.get("placements", [])]
    return [status["measured"] for status in statuses if status.get("measured")]


def accuracy_text(observations: Sequence[Observation]) -> str:
    """A line for each. Drift is measured / predicted - 1: +5 % of memory is 5 % more than was planned. Memory is held against the bill
    without its reserve, which is there to be left over."""
    rows: list[tuple[str, ...]] = [HEAD]
    for one in observations:
        unit, predicted, measured = _speed(one)
        rows.append((
            f"{one.card_kind}{' (simulated)' if one.simulated else ''}", f"{one.model_id} {one.variant_id}",
            f"{one.choice.engine.value} {one.engine_version or ''}".rstrip(), workload_text(one.workload),
            gib(one.predicted_bytes), f"{gib(one.peak_bytes)}{'' if one.believed else '?'}", drift(one.predicted_bytes, one.peak_bytes),
            _figure(one.predicted_load_s), _figure(one.load_s), drift(one.predicted_load_s, one.load_s),
            f"{_figure(predicted)}{unit if predicted else ''}", f"{_figure(measured)}{unit if measured else ''}",
            drift(predicted, measured), str(one.runs), one.origin if one.origin != HERE else "",
        ))  # fmt: skip
    return "\n".join(aligned(rows))


def drift(predicted: float | None, measured: float | None) -> str:
    """Worked number: 4.00 GiB predicted, 4.20 measured: +5 %."""
    if not predicted or measured is None:
        return "-"
    return f"{100 * (measured / predicted - 1):+.0f} %"


def _speed(one: Observation) -> tuple[str, float | None, float | None]:
    if one.workload.kind == "image":
        return " img/min", one.predicted_images_per_min, one.images_per_min
    return " tok/s", one.predicted_tok_s, one.tok_s


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
