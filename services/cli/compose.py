"""`rigserve compose`: a plan as a folder that docker compose runs. Starts nothing and needs no docker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click

from services.cli.compose_folder import differing, owner_of_containers, write_files, write_secrets
from services.cli.fit import ENGINE_NAMES, engine_option
from services.cli.output import gib, json_option, print_json
from services.cli.prepare import chosen_plan
from services.deploy.build import stack_of
from services.deploy.files import Here, stack_files
from services.deploy.images import ImageError, load_images
from services.deploy.names import service_names
from services.deploy.options import Options
from services.deploy.stack import Stack, StackError
from services.sizing.planfile import dump_plan
from services.sizing.types import Plan

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_OUT = PROJECT / "run" / "compose" / "compose.yaml"
OWN_PROFILES = {"gpu", "cpu"}


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options that end up in .env. None: as it was, else the default."""

    bind: str | None = None
    port: int | None = None
    weights: Path | None = None
    profiles: tuple[str, ...] = ()


@click.command(epilog="Example: rigserve compose plan.yaml -o rig/compose.yaml --port 8080 --profile monitoring")
@click.argument("plan_file", metavar="[PLAN]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), default=DEFAULT_OUT,
              help="The .yaml file to write, or its folder; what belongs to it lies beside it. Default: run/compose/ of the project.")
@click.option("--bind", help="Address that the gateway is published on. Default: 127.0.0.1. Beyond loopback, anyone there can use it.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port that the gateway is published on. Default: 8000.")
@click.option("--profile", "profiles", multiple=True, type=click.Choice(["monitoring", "loadtest"]), help="Have this too; may be repeated.")
@click.option("--weights", type=click.Path(file_okay=False, path_type=Path),
              help="A folder of this machine for the weights (as ~/.cache/rigserve). Default: a volume of docker's.")
@click.option("--name", default="rigserve", show_default=True, help="Name of the stack; two stacks on one machine need two.")
@click.option("--drain-s", default=30, show_default=True, type=click.IntRange(0, 3600), help="What running requests get to end at a stop.")
@click.option("--want", multiple=True, help="MODEL or MODEL:COPIES for a plan made now; may be repeated.")
@click.option("--card-memory", help="Budget of the simulated CPU card of a plan made now, as 4GiB.")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 when the files there are not what this plan gives.")
@engine_option
@json_option
def compose(plan_file: Path | None, out: Path, bind: str | None, port: int | None, profiles: tuple[str, ...], weights: Path | None,
            name: str, drain_s: int, want: tuple[str, ...], card_memory: str | None, check: bool, engine: str | None,
            as_json: bool) -> None:
    """Write compose.yaml and what belongs to it: one container per placement on its own card, the gateway, monitoring, load test.

    PLAN: the plan to obey. Default: ./plan.yaml where there is one, else a plan made now for this machine."""
    if not name or not all(c.isascii() and (c.islower() or c.isdigit() or c in "-_") for c in name) or not name[0].isalnum():
        raise click.BadParameter(f"{name!r}: small letters, digits, '-' and '_', a letter or digit first", param_hint="--name")
    if out.suffix not in (".yaml", ".yml"):
        out = out / "compose.yaml"
    with contextlib.redirect_stdout(sys.stderr):  # what is said while planning is no part of the answer
        obeyed, plan = chosen_plan(plan_file, PROJECT / "run" / "plan-compose.yaml", want, card_memory,
                                   ENGINE_NAMES[engine] if engine else None)
    folder = out.resolve().parent
    files, stack = folder_files(plan, _plan_text(obeyed, plan), folder, Options(version("rigserve"), name, drain_s),
                                Wishes(bind, port, weights, profiles))
    files[out.name] = files.pop("compose.yaml")
    if check:
        _say_check(folder, differing(folder, files), as_json)
        return
    changed = write_files(folder, files)
    write_secrets(folder, (secret for secret, _ in stack.secrets), owner_of_containers()[1])
    _say(folder, out, changed, plan, stack, as_json)


def folder_files(plan: Plan, plan_text: str, folder: Path, options: Options, wishes: Wishes) -> tuple[dict[str, str], Stack]:
    """Every file of the folder but the secrets. Raises StackError or ImageError as sentences."""
    try:
        stack = stack_of(plan, load_images(), options, _engine_lines(plan, plan_text))
    except (StackError, ImageError) as error:
        raise click.ClickException(str(error)) from error
    files = stack_files(stack, plan, plan_text, _here(plan, folder, wishes))
    return files | _tree(PROJECT / "docker" / "monitoring", "monitoring") | _tree(PROJECT / "loadtest", "loadtest"), stack


def _plan_text(path: Path, plan: Plan) -> str:
    """The plan's own bytes, comments of its owner included."""
    try:
        return path.read_text(encoding="utf8")
    except OSError:
        return dump_plan(plan)


def _engine_lines(plan: Plan, plan_text: str) -> dict[str, list[str]]:
    """Each placement's engine command line, from the worker's own launchers, which only a worker's process may import."""
    names = service_names(placement.id for placement in plan.placements)
    done = subprocess.run([sys.executable, "-m", "services.worker.engines.shown"], cwd=PROJECT, check=False, capture_output=True, text=True,
                          input=json.dumps({"plan": plan_text, "secrets": names}))
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise click.ClickException(said[-1] if said else "the engines' command lines are unknown")
    lines: dict[str, list[str]] = json.loads(done.stdout)
    return lines


def _here(plan: Plan, folder: Path, wishes: Wishes) -> Here:
    """1. What an option says. 2. What the folder's .env says. 3. The default."""
    before = read_env(folder / ".env")
    profiles = [p for p in before.pop("COMPOSE_PROFILES", "").split(",") if p and p not in OWN_PROFILES]
    weights = str(wishes.weights.expanduser().absolute()) if wishes.weights else before.pop("RIGSERVE_WEIGHTS", None)
    here = Here(
        user=owner_of_containers()[0], bind=wishes.bind or before.pop("RIGSERVE_BIND", None) or "127.0.0.1",
        port=wishes.port or int(before.pop("RIGSERVE_PORT", "") or 8000), source=os.path.relpath(PROJECT, folder),
        render_gid=_render_gid(plan), weights=weights, profiles=tuple(dict.fromkeys([*profiles, *wishes.profiles])),
        others=tuple(f"{key}={value}" for key, value in before.items() if key not in _OURS),
    )
    return here


_OURS = {"COMPOSE_PROFILES", "RIGSERVE_USER", "RIGSERVE_BIND", "RIGSERVE_PORT", "RIGSERVE_SOURCE", "RIGSERVE_WEIGHTS", "RENDER_GID"}


def read_env(path: Path) -> dict[str, str]:
    """KEY=VALUE lines of an .env file; nothing when it is not there."""
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("'") for key, _, value in pairs}


def _render_gid(plan: Plan) -> int | None:
    """The group of the first AMD card's render node on this machine."""
    for card in plan.cards:
        if card.vendor == "amd" and card.render_node:
            try:
                return Path(card.render_node).stat().st_gid
            except OSError:
                return None
    return None


def _tree(folder: Path, under: str) -> dict[str, str]:
    """The text files of a folder of the project, by their path in the generated one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{under}/{path.relative_to(folder)}": path.read_text(encoding="utf8") for path in files if path.suffix != ".pyc"}


def _say_check(folder: Path, names: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder), "differing": names})
    else:
        click.echo(f"{folder}: {'as this plan says' if not names else 'not what this plan gives: ' + ', '.join(names)}")
    raise SystemExit(1 if names else 0)


def _say(folder: Path, out: Path, changed: list[str], plan: Plan, stack: Stack, as_json: bool) -> None:
    workers = stack.of("worker")
    if as_json:
        rows = [{"service": service.name, "image": service.image.name, "memory_limit_bytes": service.memory_bytes,
                 **{key.removeprefix("rigserve."): value for key, value in service.labels}} for service in workers]
        print_json({"folder": str(folder), "file": str(out), "written": changed, "services": rows})
        return
    for service in workers:
        labels = dict(service.labels)
        simulated = "   simulated: true" if labels["rigserve.simulated"] == "true" else ""
        limit = f"at most {gib(service.memory_bytes)} of host RAM"
        click.echo(f"{service.name}: {service.image.name} on {labels['rigserve.card']}, {limit}{simulated}")
    click.echo(f"written: {', '.join(changed) if changed else 'nothing, all is as this plan says'}")
    where = "" if out == DEFAULT_OUT else f" --file {out}"
    click.echo(f"next: rigserve up{where}")
