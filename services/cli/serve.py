"""`rigserve serve`: from a fresh machine to a running stack, obeying one plan file."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from services.cli.banner import banner
from services.cli.fit import ENGINE_NAMES, engine_option
from services.cli.plan import show_plan
from services.cli.prepare import chosen_plan, prepare
from services.cli.stack import PROJECT, Stack, require_free_port
from services.cli.status import ask
from services.sizing.types import Plan

POLL_S = 0.25
SETTLED = {"ready", "failed", "unloaded"}
SMALL_HOST_BYTES = 12 * 2**30


@click.command(epilog="Example: rigserve serve --engine llamacpp --port 8080")
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Obey this plan. Default: ./plan.yaml where there is one, else a plan made now for this machine.")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address of the gateway. Beyond loopback it asks for keys (`rigserve keys`), or give --open.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port of the gateway.")
@click.option("--want", multiple=True, help="MODEL or MODEL:COPIES for a plan made now; may be repeated.")
@click.option("--card-memory", help="Budget of the simulated CPU card, as 4GiB (only where no GPU is found).")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), default=PROJECT / "run", envvar="RIGSERVE_RUN",
              help="Where logs, tokens and the plan of a run are kept. Default: run/ of the project.")
@click.option("--open", "opened", is_flag=True, help="While there are no keys, serve whoever reaches --host.")
@engine_option
def serve(plan_file: Path | None, host: str, port: int, want: tuple[str, ...], card_memory: str | None, run_dir: Path,
          opened: bool, engine: str | None) -> None:
    """Set up what is missing, start one worker per placement and the gateway, and keep them running until Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # until the stack owns the signals: end an install as Ctrl-C would
    require_free_port(host, port)
    folder = run_dir.resolve() / str(port)
    written = folder.parent / f"plan-{folder.name}.yaml"
    obeyed, plan = chosen_plan(plan_file, written, want, card_memory, ENGINE_NAMES[engine] if engine else None)
    show_plan(plan)
    click.echo(f"plan: {obeyed}")
    if not plan.placements:
        raise click.ClickException("the plan places no model on any card, so there is nothing to serve")
    prepared = prepare(plan)
    stack = Stack(obeyed, host, port, folder, one_by_one=_small_host(plan), opened=opened)
    stack.build(prepared)
    stack.start()
    try:
        _run(stack, plan)
    finally:
        click.echo("stopping ...", err=True)
        stack.stop()
        click.echo("stopped: nothing is left running", err=True)


def _small_host(plan: Plan) -> bool:
    """Cards whose host has 8 GB or less (or nobody knows how much): plans count one loading model at a time there."""
    return any(not card.simulated for card in plan.cards) and (plan.host.ram_bytes or 0) < SMALL_HOST_BYTES


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(stack: Stack, plan: Plan) -> None:
    """Wait until every placement is ready or has failed, show the banner, then watch until a signal."""
    started = time.monotonic()
    said: dict[str, str] = {}
    shown = False
    while not stack.stopping:
        stack.tend()
        if not shown:
            states = _states(stack.url)
            for ident, (state, reason) in states.items():
                if said.get(ident) != state:
                    said[ident] = state
                    click.echo(f"[{time.monotonic() - started:5.1f} s] {ident}: {state}{f' - {reason}' if reason else ''}")
            if len(states) == len(plan.placements) and {s for s, _ in states.values()} <= SETTLED:
                shown = True
                if all(s == "failed" for s, _ in states.values()):
                    raise click.ClickException(f"no placement came up; logs: {stack.folder / 'logs'}")
                click.echo(banner(stack.url, plan, states, time.monotonic() - started))
        time.sleep(POLL_S)


def _states(url: str) -> dict[str, tuple[str, str | None]]:
    """State and reason per placement, as the gateway sees them; empty while it is not up."""
    try:
        cards: dict[str, Any] = ask(url, "/v1/cards", timeout_s=2.0)
    except (OSError, ValueError):
        return {}
    return {p["id"]: (p["state"], (p.get("status") or {}).get("reason")) for card in cards["data"] for p in card["placements"]}
