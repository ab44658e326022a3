"""`rigserve up` and `rigserve down`: the generated stack, started after every check and stopped whole."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click

from services.cli.docker import Container, DockerError, versions
from services.cli.image_build import build_images
from services.cli.output import json_option, print_json
from services.cli.running import Generated, file_option, generated
from services.cli.up_checks import Problem, missing_images, problems
from services.hardware.detect import detect

POLL_S = 2.0
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
PATIENCE_S = 120.0  # above the longest start-up timeout


@click.command(epilog="Example: rigserve up --build")
@file_option
@click.option("--build", is_flag=True, help="Build the images that are missing, from this checkout.")
@click.option("--wheels", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="RIGSERVE_WHEELS",
              help="A folder of wheels that builds look into first.")
@click.option("--anyway", is_flag=True, help="Start although a check says no; the sentences are shown all the same.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every model is ready.")
@json_option
def up(file: Path, build: bool, wheels: Path | None, anyway: bool, wait: bool, as_json: bool) -> None:
    """Check the machine, then start the stack: gateway first, then one model after the other. Exit code 1 when one does not come up."""
    stack = generated(file)
    said = versions()
    click.echo(f"docker engine {said.engine}, compose {said.compose}", err=True)
    config = stack.compose.config()
    found = problems(stack, config, detect(), build=build)
    refuse(found, anyway, as_json)
    if build:
        build_images(missing_images(config["services"]), wheels)
    started = time.monotonic()
    code = stack.compose.show_on_stderr("up", "--detach", "--no-build", "--remove-orphans")
    if code:
        raise DockerError(f"the stack was not started whole (docker compose ended with {code}, its reason is above); "
                          f"see `rigserve ps` and `rigserve logs`, stop what runs with `rigserve down`")
    bad = settled(stack, config["services"]) if wait else []
    _report(stack, found, bad, time.monotonic() - started, wait, as_json)


def refuse(found: list[Problem], anyway: bool, as_json: bool) -> None:
    """Say every problem; end here unless the user wants to go on anyway."""
    if found and as_json and not anyway:
        print_json({"started": False, "problems": found})
    for problem in found:
        click.echo(f"{problem.check}: {problem.sentence}", err=True)
    if found and not anyway:
        raise click.ClickException("nothing was started (--anyway starts all the same)")


def settled(stack: Generated, services: dict[str, Any]) -> list[Container]:
    """Wait until every container with a health check is healthy or given up; those that are not healthy then.

    Docker itself gives a container up after its start-up timeout; the wait is bounded by the longest of them besides.
    """
    checked = {name for name, service in services.items() if service.get("healthcheck", {}).get("test")}
    longest_s = max((seconds(services[name]["healthcheck"].get("start_period", "0s")) for name in checked), default=0.0)
    until = time.monotonic() + longest_s + PATIENCE_S
    said: dict[str, str] = {}
    while True:
        now = [container for container in stack.compose.containers() if container.service in checked]
        for container in now:
            state = container.health if container.state == "running" else container.state
            if said.get(container.service) != state:
                said[container.service] = state
                click.echo(f"{container.service}: {state}", err=True)
        open_ = [c for c in now if c.state == "running" and c.health == "starting"]
        if not open_ or time.monotonic() > until:
            return [c for c in now if c.state != "running" or c.health != "healthy"]
        time.sleep(POLL_S)


def seconds(duration: str) -> float:
    """Compose's own way to write a time: "2m0s", "1h5m", "500ms"."""
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(r"([0-9.]+)(h|ms|m|s)", duration))


def _report(stack: Generated, found: list[Problem], bad: list[Container], took_s: float, waited: bool, as_json: bool) -> None:
    if as_json:
        print_json({"started": True, "url": stack.url, "waited": waited, "took_s": round(took_s, 1), "problems": found,
                    "not_ready": [{"service": c.service, "state": c.state, "health": c.health or None} for c in bad]})
    else:
        for container in bad:
            click.echo(f"{container.service}: {container.state} {container.health}; why: rigserve logs {container.service}")
        ready = len(stack.placements) - sum(container.service in stack.placements for container in bad)
        click.echo(f"gateway  {stack.url}   (OpenAI base URL: {stack.url}/v1)")
        if waited:
            click.echo(f"{ready} of {len(stack.placements)} placements ready after {took_s:.0f} s; try: curl {stack.url}/v1/models")
    raise SystemExit(1 if bad else 0)


@click.command(epilog="Example: rigserve down")
@file_option
@click.option("--volumes", is_flag=True, help="Remove the volumes too: weights, compiled kernels, metrics.")
@json_option
def down(file: Path, volumes: bool, as_json: bool) -> None:
    """Stop the stack and remove its containers and networks. Requests that run get the drain time to end. Weights stay."""
    stack = generated(file)
    versions()
    code = stack.compose.show_on_stderr("--profile", "*", "down", "--remove-orphans", *(["--volumes"] if volumes else []))
    if code:
        raise DockerError(f"docker compose ended with {code}, its reason is above; `rigserve ps` says what is left")
    if as_json:
        print_json({"stopped": True, "volumes_removed": volumes})
    else:
        click.echo("stopped: nothing of this stack runs" + ("" if not volumes else "; its volumes are gone"))
