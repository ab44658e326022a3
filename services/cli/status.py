"""`rigserve status`: what a running stack is doing."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

import click
from rich.table import Table

from services.calibration.record import ObservationError, observations_of
from services.cli.accuracy import DEFAULT_URL, accuracy_text, asked_cards, observations_in
from services.cli.accuracy import ask as ask
from services.cli.output import console, gib, json_option, print_json


@click.command(epilog="Example: rigserve status --url http://127.0.0.1:8000 --json")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The gateway to ask.")
@click.option("--accuracy", is_flag=True, help="Show what was predicted beside what was measured, and the drift.")
@json_option
def status(url: str, accuracy: bool, as_json: bool) -> None:
    """Show cards, placements and throughput of a running stack. Exit code 1 when no gateway answers."""
    cards = asked_cards(url)
    if accuracy:
        _accuracy(url, cards, as_json)
        return
    try:
        throughput = ask(url, "/v1/throughput")
    except urllib.error.HTTPError as error:
        raise click.ClickException(f"the gateway at {url} answered {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"no gateway answers at {url} ({error}); start one with `rigserve serve`") from error
    if as_json:
        click.echo(json.dumps({"cards": cards, "throughput": throughput}, indent=2))
        return
    console().print(_table(cards))
    for line in _remarks(cards):
        click.echo(line)


def _accuracy(url: str, cards: Any, as_json: bool) -> None:
    rows = observations_in(cards)
    if as_json:
        print_json({"observations": rows})
        return
    try:
        found = observations_of(rows)
    except ObservationError as error:
        raise click.ClickException(f"the gateway at {url} gave measurements that can't be used: {error}") from error
    click.echo(accuracy_text(found) if found else "nothing is measured yet: a worker measures after each load, before it is ready")


def _remarks(cards: dict[str, Any]) -> list[str]:
    """What the workers say aloud about cards and placements."""
    found = []
    for card in cards["data"]:
        if card.get("state") not in (None, "ok"):
            found.append(f"{card['name']} ({card['id']}): {card['state']}: {card.get('state_reason')}")
        for placement in card.get("placements", []):
            found += [f"{placement['id']}: {note}" for note in (placement.get("status") or {}).get("notes") or ()]
    return found


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
