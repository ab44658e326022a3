"""`rigserve worker`: one placement of a plan, as the main process of a container or by hand. Finds what it needs; fetches nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from services.cli.errors import KNOWN_ERRORS
from services.cli.placed import MissingPiece, engine_here, in_catalogue, weights_here
from services.sizing.catalogue import load_catalogue
from services.sizing.planfile import load_plan

PROJECT = Path(__file__).parents[2]
CONTAINER_STATE = Path("/run/rigserve")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example: rigserve worker --plan plan.yaml --placement qwen-0 --token-file run/token --port 9100 --engine-port 9101")
@click.option("--plan", "plan_file", required=True, type=FILE, help="The plan that has the placement.")
@click.option("--placement", required=True, help="Its id in the plan.")
@click.option("--token-file", required=True, type=FILE, help="The placement's token, one line.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the status port and the engine listen.")
@click.option("--port", default=9100, show_default=True, type=click.IntRange(1, 65535), help="The status port.")
@click.option("--engine-port", default=9101, show_default=True, type=click.IntRange(1, 65535), help="The engine's port.")
@click.option("--load-lock", type=FILE, help="Load the model only while holding this file's lock: one of several workers at a time.")
@click.option("--drain-s", default=30.0, show_default=True, type=click.FloatRange(0, 86400),
              help="How long requests that run may take to end after SIGTERM.")
@click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), envvar="RIGSERVE_STATE_DIR",
              help="Private files of this run. Default: /run/rigserve where that can be written (a container), else run/workers/ID.")
@click.option("--log-file", default="-", show_default=True, help="Where the engine's output goes; - is standard output.")
@click.option("--exit-on-failure", is_flag=True, help="End with code 3 when the engine is given up, instead of saying so for ever.")
def worker(plan_file: Path, placement: str, token_file: Path, host: str, port: int, engine_port: int, load_lock: Path | None,
           drain_s: float, state_dir: Path | None, log_file: str, exit_on_failure: bool) -> None:
    """Run one placement: its engine, watched and restarted, and its status port. What is missing is said, with exit code 2."""
    argv = [sys.executable, "-m", "services.worker", "--plan", str(plan_file.absolute()), "--placement", placement,
            "--token-file", str(token_file.absolute()), "--host", host, "--port", str(port), "--engine-port", str(engine_port),
            "--drain-s", f"{drain_s:g}", "--state-dir", str((state_dir or _state_folder(placement)).absolute())]
    argv += ["--log-file", log_file if log_file == "-" else str(Path(log_file).absolute())]
    if load_lock:
        argv += ["--load-lock", str(load_lock.absolute())]
    if exit_on_failure:
        argv.append("--exit-on-failure")
    try:
        argv += _pieces(plan_file, placement)
    except KNOWN_ERRORS as error:
        raise MissingPiece(str(error)) from error
    os.chdir(PROJECT)
    os.execv(sys.executable, argv)  # noqa: S606 - the same interpreter, an argument list, no shell


def _pieces(plan_file: Path, ident: str) -> list[str]:
    """The worker's flags for weights and engine, found on the disk."""
    plan = load_plan(plan_file)
    found = next((placement for placement in plan.placements if placement.id == ident), None)
    if found is None:
        raise MissingPiece(f"{plan_file} has no placement {ident}; it has {', '.join(p.id for p in plan.placements) or 'none'}")
    engine = engine_here(found)
    return [*engine, "--weights", str(weights_here(*in_catalogue(load_catalogue(), found), plan_file))]


def _state_folder(placement: str) -> Path:
    return CONTAINER_STATE if os.access(CONTAINER_STATE, os.W_OK) else PROJECT / "run" / "workers" / placement
