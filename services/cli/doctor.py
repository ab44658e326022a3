"""`rigserve doctor`: what is wrong with this machine, and the command that fixes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from services.cli.doctor_text import report_lines
from services.cli.errors import InputError
from services.cli.output import json_option, print_json
from services.doctor.case import Case
from services.doctor.diagnose import diagnose
from services.doctor.finding import Report, Severity
from services.doctor.read import read
from services.provision.cache import cache_root
from services.provision.environment_table import ENVIRONMENTS
from services.sizing.planfile import PlanFileError, load_plan, to_json


@click.command(epilog="Example: rigserve doctor --plan plan.yaml --json")
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Look with this plan in mind: its cards, its host memory, its disk, the images that its cards get.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), envvar="RIGSERVE_PORT", help="Port of the gateway.")
@json_option
def doctor(plan_file: Path | None, port: int, as_json: bool) -> None:
    """Look for what would keep this machine from serving: drivers, cards, risers, the kernel log, docker, memory, disk, clock.

    Nothing is changed and nothing needs root; what can't be read is said to be unknown. Each finding comes with the command that fixes it.
    Exit code: 0 no errors, 1 errors found, 2 the call was wrong.
    """
    try:
        plan = load_plan(plan_file) if plan_file else None
    except PlanFileError as error:  # code 2, not the 1 of errors found
        raise InputError(str(error)) from error
    image_bytes = {name: row.disk_bytes for name, row in ENVIRONMENTS.items()}
    report = diagnose(Case(read(cache_root()), plan, port, image_bytes))
    if as_json:
        print_json({"looked_at": report.looked_at, "counts": _counts(report), "findings": to_json(report.findings)})
    else:
        click.echo("\n".join(report_lines(report, _width())))
    sys.stdout.flush()
    sys.exit(1 if report.count(Severity.ERROR) else 0)


def _counts(report: Report) -> dict[str, int]:
    return {severity.value: report.count(severity) for severity in Severity}


def _width() -> int:
    """Columns to wrap sentences at (commands are never wrapped). Without a terminal: 120."""
    try:
        return max(50, min(120, os.get_terminal_size(sys.stdout.fileno()).columns))
    except (OSError, ValueError):
        return 120
