"""`rigserve power`: the power caps of the NVIDIA cards here. Decoding loses little under a cap, images and prefill lose more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from services.calibration.power import Sweep, keep_sweep, power_path, sweeps
from services.calibration.store import CalibrationError
from services.cli.accuracy import DEFAULT_URL, asked_cards
from services.cli.columns import aligned
from services.cli.output import json_option, print_json
from services.cli.power_sweep import Load, sweep, target_of
from services.hardware.power import Cap, PowerError, read_caps, set_cap
from services.hardware.telemetry_nvidia import NvidiaMeter
from services.sizing.power import KEEP, BudgetError, CardPower, Point, Share, best, split, sweep_caps

UNIT = """[Unit]
Description=rigserve: power caps of the cards, as they were when this was printed
After=nvidia-persistenced.service

[Service]
Type=oneshot
RemainAfterExit=yes
# Without persistence the driver forgets its caps whenever the last program lets go of a card.
ExecStartPre=-nvidia-smi -pm 1
{lines}

[Install]
WantedBy=multi-user.target
"""


@click.command(epilog="Example: rigserve power --set 110 --card GPU-0b1c2d3e; rigserve power --rig-watts 900 --dry-run")
@click.option("--list", "list_", is_flag=True, help="Show each card's cap and its range; also what happens without another option.")
@click.option("--set", "watts", type=click.FloatRange(1, 2000), help="New cap in watts. Needs root; a reboot or driver reload undoes it.")
@click.option("--card", help="The card's UUID, or as much of its beginning as no other card shares. Needed with --set and --sweep.")
@click.option("--rig-watts", type=click.FloatRange(1, 100_000), help="Deal so many watts out to all cards: what the power supply can give "
              "to them for long, less what the host takes. Needs root.")
@click.option("--dry-run", is_flag=True, help="With --rig-watts: show the caps, set none.")
@click.option("--sweep", "sweep_", is_flag=True, help="Find the cap with most tokens per joule: asks the model on this card under falling "
              "caps, then sets the old cap again. Needs root and a running gateway.")
@click.option("--seconds", type=click.FloatRange(5, 600), default=20, show_default=True, help="With --sweep: load for so long at each cap.")
@click.option("--step", type=click.FloatRange(1, 500), help="With --sweep: watts between two caps. Default: an eighth of the range.")
@click.option("--keep", type=click.FloatRange(10, 100), default=100 * KEEP, show_default=True,
              help="With --sweep: percent of the fastest speed that a cap must keep.")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="With --sweep: the gateway.")
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="With --sweep: a file with an API key.")
@click.option("--unit", is_flag=True, help="Print a systemd unit that sets the caps of now again after each boot.")
@json_option
def power(list_: bool, watts: float | None, card: str | None, rig_watts: float | None, dry_run: bool, sweep_: bool, seconds: float,
          step: float | None, keep: float, url: str, key_file: Path | None, unit: bool, as_json: bool) -> None:
    """Show or set power caps, deal a budget out, find the best cap.

    Exit code 0: done. 1: no driver answers, or it refuses (not root, out of the card's range), or a sweep fails. 2: the question can't be
    understood.
    """
    if sum((list_, watts is not None, rig_watts is not None, sweep_, unit)) > 1:
        raise click.UsageError("give one of --list, --set, --rig-watts, --sweep and --unit")
    if (card is not None) is not (watts is not None or sweep_):
        raise click.UsageError("give --set WATTS or --sweep with --card UUID, or --list alone")
    if dry_run and rig_watts is None:
        raise click.UsageError("--dry-run goes with --rig-watts")
    try:
        if rig_watts is not None:
            _deal(rig_watts, dry_run, as_json)
        elif sweep_ and card is not None:
            _sweep(_chosen(read_caps(), card), seconds, step, keep / 100, url, key_file, as_json)
        elif unit:
            click.echo(unit_text(read_caps(), str(Path(sys.executable).with_name("rigserve"))), nl=False)
        else:
            if watts is not None and card is not None:
                set_cap(_chosen(read_caps(), card), watts)
            _show(read_caps(), as_json)
    except (PowerError, CalibrationError, BudgetError) as error:
        raise click.ClickException(str(error)) from error


def _show(caps: tuple[Cap, ...], as_json: bool) -> None:
    if as_json:
        print_json({"cards": [asdict(cap) for cap in caps]})
    elif caps:
        click.echo("\n".join(aligned([("card", "id", "cap", "default", "range"), *(_row(cap) for cap in caps)])))
        click.echo("a reboot or a reload of the driver sets every cap back to its default; `rigserve power --unit` prints what prevents it")
    else:
        click.echo("no NVIDIA card here")


def _deal(rig_watts: float, dry_run: bool, as_json: bool) -> None:
    """Lower caps are set before higher ones, so that the sum never is above the budget on the way."""
    caps, known = {cap.card_id: cap for cap in read_caps()}, sweeps(power_path())
    if not caps:
        raise PowerError("no NVIDIA card here, so there is nothing to deal watts out to.")
    shares = split(rig_watts, [_card_power(cap, known.get(cap.card_id)) for cap in caps.values()])
    for share in [] if dry_run else sorted(shares, key=lambda one: one.watts - (caps[one.card_id].cap_watts or one.watts)):
        set_cap(caps[share.card_id], share.watts)
    if as_json:
        print_json({"rig_watts": rig_watts, "set": not dry_run, "cards": [asdict(share) for share in shares]})
        return
    click.echo("\n".join(aligned([("card", "id", "cap", "why"), *(_share_row(share) for share in shares)])))
    done = "nothing is set (--dry-run)" if dry_run else "set; `rigserve power --unit` prints what sets them again after a reboot"
    click.echo(f"{sum(share.watts for share in shares):.0f} of {rig_watts:.0f} W; {done}")


def _card_power(cap: Cap, swept: Sweep | None) -> CardPower:
    found = (swept.points, swept.keep) if swept else ((), KEEP)
    return CardPower(cap.card_id, cap.name, cap.least_watts, cap.most_watts, cap.default_watts, *found)


def _share_row(share: Share) -> tuple[str, ...]:
    return share.name, share.card_id, _watts(share.watts), share.why


def _sweep(cap: Cap, seconds: float, step: float | None, keep: float, url: str, key_file: Path | None, as_json: bool) -> None:
    if cap.least_watts is None or cap.cap_watts is None:
        raise PowerError(f"{cap.name} ({cap.card_id}) tells no range of its power cap, so there is nothing to sweep.")
    target, meter = target_of(asked_cards(url), cap.card_id), NvidiaMeter(cap.card_id)
    caps = sweep_caps(cap.least_watts, cap.cap_watts, step)
    load = Load(url, target, meter, seconds, key_file)

    def say(point: Point) -> None:
        click.echo(f"{point.cap_watts:.0f} W: {point.tok_s:.1f} tok/s, {point.watts:.0f} W drawn, {point.tok_per_j:.2f} tok/J", err=True)

    try:
        points = sweep(caps, keep, lambda watts: set_cap(cap, watts), load.measure, say)
    finally:
        meter.close()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    keep_sweep(power_path(), Sweep(cap.card_id, cap.name, target.model_id, at, keep, points))
    found = best(points, keep)
    assert found is not None, "a sweep has at least its first point"
    if as_json:
        listed = [asdict(one) | {"tok_per_j": one.tok_per_j} for one in points]
        print_json({"card_id": cap.card_id, "model_id": target.model_id, "points": listed, "best_watts": found.cap_watts})
        return
    click.echo(f"most tokens per joule at {found.cap_watts:.0f} W with at least {keep:.0%} of the speed: "
               f"rigserve power --set {found.cap_watts:.0f} --card {cap.card_id}")


def unit_text(caps: Sequence[Cap], program: str) -> str:
    """One line for each card whose cap is not its default. Raises PowerError when there is none."""
    changed = [cap for cap in caps if cap.cap_watts is not None and cap.cap_watts != cap.default_watts]
    if not changed:
        raise PowerError("every cap is at its default: there is nothing to set again after a reboot. Set caps first, then print the unit.")
    # A card that is missing at a boot (-) must not keep the others from their caps.
    lines = [f'ExecStart=-"{program}" power --set {cap.cap_watts:g} --card {cap.card_id}' for cap in changed]
    return UNIT.format(lines="\n".join(lines))


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
