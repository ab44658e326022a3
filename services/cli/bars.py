"""Progress of slow steps on the terminal: a bar where it is one, a line a stage where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from services.provision.progress import Progress as Step
from services.provision.progress import ProgressSink

QUIET_S = 5.0


@contextmanager
def progress(title: str) -> Iterator[ProgressSink]:
    """A sink for one slow job. The bar disappears when the job was quicker than anyone could read."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[amount]}"),
               TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, amount="")

        def show(step: Step) -> None:
            bars.update(task, description=f"{title}: {step.text[:70]}", completed=step.done or 0, total=step.total, amount=_amount(step))

        yield show


def _lines(title: str) -> ProgressSink:
    """Without a terminal: one line when the stage changes, and one every few seconds while it lasts."""
    last_stage, last_at = "", 0.0

    def show(step: Step) -> None:
        nonlocal last_stage, last_at
        now = time.monotonic()
        if step.stage != last_stage or now - last_at >= QUIET_S:
            last_stage, last_at = step.stage, now
            click.echo(f"{title}: {step.text} {_amount(step)}".rstrip(), err=True)

    return show


def _amount(step: Step) -> str:
    if step.done is None:
        return ""
    if step.total is None:
        return f"{step.done / 2**20:.1f} MiB" if step.done > 10**6 else f"{step.done}"
    if step.total > 10**6:
        return f"{step.done / 2**20:.0f}/{step.total / 2**20:.0f} MiB"
    return f"{step.done}/{step.total}"
