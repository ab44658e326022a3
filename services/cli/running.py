"""A generated stack as the commands see it: its file, its plan, its services, its gateway; `rigserve ps` and `rigserve logs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from services.cli.columns import aligned
from services.cli.compose import DEFAULT_OUT, read_env
from services.cli.docker import Compose, Container, DockerError
from services.cli.output import json_option, print_json
from services.deploy.names import service_names
from services.sizing.planfile import load_plan
from services.sizing.types import Placement, Plan

F = TypeVar("F", bound=Callable[..., Any])


def file_option(command: F) -> F:
    """--file: which generated stack."""
    return click.option("-f", "--file", "file", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_OUT, show_default=False,
                        help="The file that `rigserve compose` wrote. Default: run/compose/compose.yaml of the project.")(command)


@dataclass(frozen=True, slots=True)
class Generated:
    """One folder of `rigserve compose`."""

    compose: Compose
    plan: Plan

    @property
    def placements(self) -> dict[str, Placement]:
        """Service name -> placement, in the plan's order."""
        names = service_names(placement.id for placement in self.plan.placements)
        return {names[placement.id]: placement for placement in self.plan.placements}

    @property
    def url(self) -> str:
        """Where the gateway is published."""
        env = read_env(self.compose.folder / ".env")
        bind = env.get("RIGSERVE_BIND", "127.0.0.1")
        return f"http://{'127.0.0.1' if bind == '0.0.0.0' else bind}:{env.get('RIGSERVE_PORT', '8000')}"  # noqa: S104 - compared

    def services(self, wanted: tuple[str, ...]) -> list[str]:
        """Service names of what was typed: names or placement ids. Raises BadParameter."""
        by_id = {placement.id: name for name, placement in self.placements.items()}
        known = set(self.compose.config()["services"])
        for name in wanted:
            if by_id.get(name, name) not in known:
                raise click.BadParameter(f"the stack has no service {name!r}; it has {', '.join(sorted(known))}", param_hint="SERVICE")
        return [by_id.get(name, name) for name in wanted]


def generated(file: Path) -> Generated:
    """Raises DockerError when there is nothing, PlanFileError when its plan can't be read."""
    path = file.absolute()
    if not path.is_file():
        raise DockerError(f"there is no {path}: write it with `rigserve compose PLAN -o {file}`, or plan and start all with `make up`")
    return Generated(Compose(path), load_plan(path.parent / "plan.yaml"))


@click.command(epilog="Example: rigserve ps --json")
@file_option
@json_option
def ps(file: Path, as_json: bool) -> None:
    """Show the containers of the stack, each placement with its card. Exit code 1 when one that should run does not, or is unhealthy."""
    stack = generated(file)
    containers = stack.compose.containers()
    rows = [_row(stack, container) for container in containers]
    missing = [name for name in stack.placements if name not in {container.service for container in containers}]
    if as_json:
        print_json({"containers": rows, "missing": missing})
    elif rows:
        cells = [("service", "state", "card", "model", "since")]
        cells += [(row["service"], _state(row), row["card"] or "", row["model"] or "", row["status"]) for row in rows]
        click.echo("\n".join(aligned(cells)))
    if not rows and not as_json:
        click.echo("nothing of this stack is there; start it with `rigserve up`")
    elif missing and not as_json:
        click.echo(f"not there: {', '.join(missing)}")
    bad = [container for container in containers if not well(container)]
    raise SystemExit(1 if bad or missing or not rows else 0)


def well(container: Container) -> bool:
    """Running and not unhealthy, or a one-shot that ended well."""
    if container.state == "exited":
        return container.exit_code == 0 and container.service.startswith("fetch-")
    return container.state == "running" and container.health in ("", "healthy", "starting")


def _row(stack: Generated, container: Container) -> dict[str, Any]:
    placement = stack.placements.get(container.service)
    card = next((c for c in stack.plan.cards if placement and c.id == placement.card_id), None)
    return {
        "service": container.service, "container": container.name, "state": container.state, "health": container.health or None,
        "exit_code": container.exit_code if container.state == "exited" else None, "status": container.status,
        "placement": placement.id if placement else None, "model": placement.model_id if placement else None,
        "card": card.id if card else None, "card_name": card.name if card else None, "simulated": card.simulated if card else None,
    }


def _state(row: dict[str, Any]) -> str:
    if row["state"] == "exited":
        return "done" if row["exit_code"] == 0 else f"ended with {row['exit_code']}"
    return f"{row['state']}, {row['health']}" if row["health"] else str(row["state"])


@click.command(epilog="Example: rigserve logs llama-3.1-8b-instruct-1 --follow")
@click.argument("services", nargs=-1, metavar="[SERVICE|PLACEMENT]...")
@file_option
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--tail", default=100, show_default=True, type=click.IntRange(0), help="Lines of each container.")
def logs(services: tuple[str, ...], file: Path, follow: bool, tail: int) -> None:
    """Show what containers of the stack say: all of them, or those that are named."""
    stack = generated(file)
    words = ["--profile", "*", "logs", "--tail", str(tail), *(["--follow"] if follow else []), *stack.services(services)]
    raise SystemExit(stack.compose.show(*words))
