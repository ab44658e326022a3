"""The command: python -m loadtest run | sweep | calibrate | compare | report."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from loadtest.calibrate import calibrate as measure_ourselves
from loadtest.compare import compare as compare_results
from loadtest.compare import differences, read_results, regressions
from loadtest.drive import Drill, DriveError, read_drill
from loadtest.drive import run as drive
from loadtest.limits import Limit, read_limit
from loadtest.options import load_options, number_list, parsed, spec_of
from loadtest.outcome import console, failing, write
from loadtest.report import page
from loadtest.slo import DEFAULT, Slo, read_slo
from loadtest.sweep import sweep as find_knee
from loadtest.target import TargetError

CALIBRATION = Path("run/load/calibration.json")


class Sorry(click.ClickException):
    """Said in one sentence, exit code 2."""

    exit_code = 2


@click.group(epilog="Exit codes: 0 fine, 1 a --fail-if or regression came true or nothing was answered, 2 bad input or no server.")
def main() -> None:
    """Loads any OpenAI-compatible server and says how it did: report.html and result.json."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that locust is ended too


def _slo(_: click.Context, __: click.Parameter, path: Path) -> Slo:
    try:
        return read_slo(path)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


out_option = click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("run/load"), show_default=True,
                          help="Folder for report.html, result.json, summary.md and requests.jsonl.")  # fmt: skip
slo_option = click.option("--slo", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT, callback=_slo,
                          help="TOML file with ttft_s, tpot_s, e2e_s, image_s. Default: loadtest/slo.toml.")  # fmt: skip
fail_option = click.option("--fail-if", "limits", multiple=True, callback=parsed(read_limit), metavar="CONDITION",
                           help="Exit code 1 if so, such as failures>0 or ttft_s.p95>2. May be repeated.")  # fmt: skip
processes_option = click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Load generators here.")


@main.command(epilog="Example: python -m loadtest run --url http://127.0.0.1:8000 --profile chat --rate 2 --duration 60 --out run/load")
@load_options
@out_option
@slo_option
@fail_option
@processes_option
@click.option("--drill", "drills", multiple=True, callback=parsed(read_drill), metavar="S:NAME:COMMAND",
              help="A command to run S seconds after the start, marked on the plots.")  # fmt: skip
def run(out: Path, slo: Slo, limits: tuple[Limit, ...], processes: int, drills: tuple[Drill, ...], **given: Any) -> None:
    """One load, one report."""
    try:
        spec = spec_of(given)
        click.echo(f"{spec.duration_s:g} s of {spec.profile} on {spec.url}: {', '.join(filter(None, (spec.chat_model, spec.image_model)))}")
        _made(out)
        result = drive(spec, out, slo, processes, drills, calibration=_calibration())
    except (TargetError, DriveError) as error:
        raise Sorry(str(error)) from None
    _end(result, out, limits)


@main.command(epilog="Example: python -m loadtest sweep --url http://127.0.0.1:8000 --points 6 --duration 30 --out run/sweep")
@load_options
@out_option
@slo_option
@fail_option
@processes_option
@click.option("--points", type=click.IntRange(1, 50), default=6, show_default=True, help="Rates between one at a time and the most.")
@click.option("--rates", default="", callback=parsed(number_list), help="These rates instead, such as 0.5,1,2,4.")
@click.option("--most-users", type=click.IntRange(2, 4096), default=32, show_default=True, help="Users that find the most it can do.")
def sweep(out: Path, slo: Slo, limits: tuple[Limit, ...], processes: int, points: int, rates: tuple[float, ...], most_users: int,
          **given: Any) -> None:  # fmt: skip
    """Rising rates until the server is saturated; finds the knee. --duration is that of each rate."""
    try:
        spec = spec_of(given)
        _made(out)
        result = find_knee(spec, out, slo, points, most_users, processes, click.echo, rates, _calibration())
    except (TargetError, DriveError) as error:
        raise Sorry(str(error)) from None
    _end(result, out, limits)


@main.command(epilog="Example: python -m loadtest calibrate --streams 1,20,100")
@click.option("--streams", default="1,10,50,100", show_default=True, callback=parsed(number_list), help="Numbers of concurrent streams.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=6.0, show_default=True, help="For each number of streams.")
@click.option("--ttft-ms", type=click.FloatRange(0, 60_000), default=200.0, show_default=True, help="The known time to first token.")
@click.option("--itl-ms", type=click.FloatRange(0.1, 10_000), default=20.0, show_default=True, help="The known time between tokens.")
@click.option("--tokens", type=click.IntRange(2, 10_000), default=50, show_default=True, help="Tokens of an answer.")
@processes_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=CALIBRATION, show_default=True, help="Where it is kept.")
def calibrate(streams: tuple[float, ...], seconds: float, ttft_ms: float, itl_ms: float, tokens: int, processes: int, out: Path) -> None:
    """Measures this load generator against a server with known times; later reports say up to how many streams it is right."""
    if not streams or any(count < 1 for count in streams):
        raise click.BadParameter("at least one number of streams, each 1 or more", param_hint="--streams")
    try:
        _made(out.parent)
        counts = [int(count) for count in streams]
        found = measure_ourselves(
            out.parent / "calibration", counts, seconds, ttft_ms / 1000, itl_ms / 1000, tokens, processes, click.echo
        )
    except DriveError as error:
        raise Sorry(str(error)) from None
    out.write_text(json.dumps(found, indent=1), encoding="utf8")
    good = found["good_up_to_streams"]
    click.echo(f"within the tolerance up to {good} streams; kept in {out}" if good else f"not within the tolerance; kept in {out}")
    raise SystemExit(0 if good else 1)


@main.command(epilog="Example: python -m loadtest compare run/before/result.json run/after/result.json --max-regression 10")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--max-regression", type=click.FloatRange(0, 1000), default=10.0, show_default=True,
              help="Exit code 1 where a figure got worse by more percent than this, unless it may be chance.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def compare(before: Path, after: Path, max_regression: float, as_json: bool) -> None:
    """Two results, or two folders of repeated runs."""
    try:
        a, b = read_results(before), read_results(after)
    except ValueError as error:
        raise Sorry(str(error)) from None
    rows = compare_results(a, b)
    worse, unlike = regressions(rows, max_regression / 100), differences(a[0], b[0])
    if as_json:
        said = {"rows": [row.to_json() for row in rows], "differences": unlike, "regressions": [row.figure for row in worse]}
        click.echo(json.dumps(said, indent=1))
    else:
        click.echo(f"{'figure':<16}{'before':>12}{'after':>12}{'change':>9}  sure")
        for row in rows:
            sides = ("unknown" if value is None else f"{value:.5g}" for value in (row.a, row.b))
            change = "" if row.change is None else f"{row.change:+.1%}"
            sure = {True: "yes", False: "may be chance", None: "unknown"}[row.sure]
            click.echo(f"{row.figure:<16}{next(sides):>12}{next(sides):>12}{change:>9}  {sure}{' WORSE' if row in worse else ''}")
        if unlike:
            click.echo(f"not the same load: {', '.join(unlike)} differ")
    raise SystemExit(1 if worse else 0)


@main.command(epilog="Example: python -m loadtest report run/load/result.json")
@click.argument("result", type=click.Path(path_type=Path))
def report(result: Path) -> None:
    """Draws report.html again from a result.json, beside it."""
    try:
        found = read_results(result)[0]
    except ValueError as error:
        raise Sorry(str(error)) from None
    file = (result if result.is_dir() else result.parent) / "report.html"
    file.write_text(page(found), encoding="utf8")
    click.echo(f"written: {file}")


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DriveError(f"The folder {folder} can't be made: {error.strerror or error}") from None


def _calibration() -> dict[str, Any] | None:
    """What `calibrate` kept on this machine."""
    try:
        found = json.loads(CALIBRATION.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "rows" in found and "good_up_to_streams" in found else None


def _end(result: dict[str, Any], out: Path, limits: tuple[Limit, ...]) -> None:
    reasons = failing(result, limits)
    result["failed_because"] = reasons
    write(result, out)
    click.echo(console(result, out))
    for reason in reasons:
        click.echo(f"failed: {reason}", err=True)
    raise SystemExit(1 if reasons else 0)
