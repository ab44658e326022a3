"""`rigserve power`: the power caps of the NVIDIA cards here. Decoding loses little under a cap, images and prefill lose more."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from services.cli.columns import aligned
from services.cli.output import json_option, print_json
from services.hardware.power import Cap, PowerError, read_caps, set_cap


@click.command(epilog="Example: rigserve power --set 110 --card GPU-0b1c2d3e")
@click.option("--list", "list_", is_flag=True, help="Show each card's cap and its range; also what happens without --set.")
@click.option("--set", "watts", type=click.FloatRange(1, 2000), help="New cap in watts. Needs root; a reboot or driver reload undoes it.")
@click.option("--card", help="The card's UUID, or as much of its beginning as no other card shares. Needed with --set.")
@json_option
def power(list_: bool, watts: float | None, card: str | None, as_json: bool) -> None:
    """Show or set power caps.

    Exit code 0: done. 1: no driver answers, or it refuses (not root, out of the card's range). 2: the question can't be understood.
    """
    if (watts is None) is not (card is None) or (list_ and watts is not None):
        raise click.UsageError("give --set WATTS with --card UUID, or --list alone")
    try:
        if watts is not None and card is not None:
            set_cap(_chosen(read_caps(), card), watts)
        caps = read_caps()
    except PowerError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json({"cards": [asdict(cap) for cap in caps]})
    elif caps:
        click.echo("\n".join(aligned([("card", "id", "cap", "default", "range"), *(_row(cap) for cap in caps)])))
        click.echo("a reboot or a reload of the driver sets every cap back to its default")
    else:
        click.echo("no NVIDIA card here")


def _chosen(caps: tuple[Cap, ...], wish: str) -> Cap:
    found = [cap for cap in caps if cap.card_id.startswith(wish)]
    if len(found) != 1:
        known = ", ".join(cap.card_id for cap in caps) or "none"
        many = "more than one" if found else "no"
        raise click.BadParameter(f"{wish[:60]!r} is {many} card here; there are: {known}", param_hint="--card")
    return found[0]


def _row(cap: Cap) -> tuple[str, ...]:
    return cap.name, cap.card_id, _watts(cap.cap_watts), _watts(cap.default_watts), f"{_watts(cap.least_watts)} - {_watts(cap.most_watts)}"


def _watts(value: Any) -> str:
    return "unknown" if value is None else f"{value:.0f} W"
