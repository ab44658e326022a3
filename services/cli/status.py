"""`rigserve status`: what a running stack is doing."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import click
from rich.table import Table

from services.cli.output import console, gib, json_option

DEFAULT_URL = "http://127.0.0.1:8000"


def ask(url: str, path: str, timeout_s: float = 5.0) -> Any:
    """GET a JSON document of a gateway. OSError when nobody answers."""
    request = urllib.request.Request(url.rstrip("/") + path, headers={"Accept": "application/json"})  # noqa: S310 - http(s), checked
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        return json.load(answer)


@click.command(epilog="Example: rigserve status --url http://127.0.0.1:8000 --json")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The gateway to ask.")
@json_option
def status(url: str, as_json: bool) -> None:
    """Show cards, placements and throughput of a running stack. Exit code 1 when no gateway answers."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not an http(s) URL", param_hint="--url")
    try:
        cards, throughput = ask(url, "/v1/cards"), ask(url, "/v1/throughput")
    except urllib.error.HTTPError as error:
        raise click.ClickException(f"the gateway at {url} answered {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"no gateway answers at {url} ({error}); start one with `rigserve serve`") from error
    if as_json:
        click.echo(json.dumps({"cards": cards, "throughput": throughput}, indent=2))
        return
    console().print(_table(cards))


def _table(cards: dict[str, Any]) -> Table:
    table = Table("card", "memory", "model", "engine", "state", "for", "restarts", "resident")
    for card in cards["data"]:
        name = card["name"] + (" (simulated)" if card.get("simulated") else "")
        for placement in card.get("placements", []) or [{}]:
            worker = placement.get("status") or {}
            seconds = worker.get("state_for_s")
            table.add_row(name, gib(card.get("total_bytes")), placement.get("model_id", "nothing"), placement.get("engine", ""),
                          placement.get("state", ""), f"{seconds:.0f} s" if seconds is not None else "",
                          str(worker.get("restarts", "")), gib(worker.get("resident_bytes")) if worker else "")
    return table
