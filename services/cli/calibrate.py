"""`rigserve calibrate`: what engines really took and did on these cards, beside what was predicted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from services.calibration.record import HERE, Observation, ObservationError, dumped, observations_of, parsed
from services.calibration.store import CalibrationError, Store, default_path
from services.cli.accuracy import DEFAULT_URL, accuracy_text, asked_cards, observations_in
from services.cli.output import OutputFile, json_option, print_json

MAX_FILE_BYTES = 16 * 2**20


@click.command(epilog="Example: rigserve calibrate --export rig1.json; on another rig: rigserve calibrate --import rig1.json")
@click.option("--list", "list_", is_flag=True, help="Show every observation. This is what happens without another option, too.")
@click.option("--collect", is_flag=True, help="Take what the workers of a running stack measured; those in containers keep it in a volume.")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The gateway that --collect asks.")
@click.option("--export", "export_file", type=OutputFile(), help="Write what was measured here to this file, for other rigs.")
@click.option("--import", "import_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take in another rig's file.")
@click.option("--database", type=click.Path(dir_okay=False, path_type=Path),
              help="Default: $RIGSERVE_CALIBRATION, else rigserve/calibration.db in $XDG_STATE_HOME (~/.local/state).")
@json_option
def calibrate(list_: bool, collect: bool, url: str, export_file: Path | None, import_file: Path | None, database: Path | None,
              as_json: bool) -> None:
    """Show, share and take in measurements. Plans made from now on count the larger of what is predicted and what was measured.

    Exit code 0: done. 1: the database or a file can't be used. 2: the file holds no calibration, or the options contradict.
    """
    if sum(map(bool, (list_, collect, export_file, import_file))) > 1:
        raise click.UsageError("give one of --list, --collect, --export and --import")
    store = Store(database or default_path())
    try:
        if import_file:
            _import(store, import_file)
        elif export_file:
            _export(store, export_file)
        elif collect:
            _collect(store, url)
        else:
            _show(store, as_json)
    except CalibrationError as error:
        raise click.ClickException(str(error)) from error


def _show(store: Store, as_json: bool) -> None:
    found = store.all()
    if as_json:
        print_json({"database": str(store.path), "observations": [asdict(one) for one in found]})
    elif found:
        click.echo(accuracy_text(found))
    else:
        click.echo(f"{store.path} holds nothing yet: workers write to it after each load (rigserve serve), or take in a file with --import")


def _export(store: Store, file: Path) -> None:
    """What was measured here only: a figure handed on from rig to rig would look like two."""
    mine = [one for one in store.all() if one.origin == HERE]
    try:
        file.write_text(dumped(mine), encoding="utf8")
    except OSError as error:
        raise click.ClickException(f"{file} can't be written: {error.strerror}") from error
    click.echo(f"{len(mine)} observation(s) written to {file}")


def _import(store: Store, file: Path) -> None:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ObservationError("is too large to be a calibration.")
        observations = parsed(file.read_text(encoding="utf8"))
    except OSError as error:
        raise click.ClickException(f"{file} can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, ObservationError) as error:
        why = str(error) if isinstance(error, ObservationError) else "is not UTF-8 text."
        raise click.BadParameter(f"{file} {why}", param_hint="--import") from error
    count = store.take_in(observations, origin=file.name[:200])
    click.echo(f"{count} observation(s) of {file} taken in; the next plan counts them where they ask for more than was predicted")


def _collect(store: Store, url: str) -> None:
    rows: list[Any] = observations_in(asked_cards(url))
    try:
        observations: list[Observation] = observations_of(rows)
    except ObservationError as error:
        raise click.ClickException(f"the gateway at {url} gave measurements that can't be used: {error}") from error
    known = {(one.key, one.measured_at) for one in store.all()}
    new = [one for one in observations if (one.key, one.measured_at) not in known]
    for one in new:
        store.add(one)
    click.echo(f"{len(new)} new observation(s) of {len(observations)} taken from {url}")
