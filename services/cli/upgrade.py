"""`rigserve upgrade`: new files or images, one card at a time, so that a model with a second replica never stops answering."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from services.cli.compose_folder import swap_previous
from services.cli.docker import DockerError, ask, program, versions
from services.cli.output import json_option, print_json
from services.cli.running import Generated, file_option, generated
from services.cli.status import ask as ask_gateway
from services.cli.up import PATIENCE_S, POLL_S, refuse, seconds
from services.cli.up_checks import problems
from services.hardware.detect import detect

SEEN_S = 30.0  # how long the gateway may take to see a worker that is ready; it looks once a second


@dataclass(frozen=True, slots=True)
class Step:
    """One service to make anew, and the other services that answer for its model meanwhile."""

    service: str
    model_id: str | None
    others: tuple[str, ...]
    why: str


@click.command(epilog="Example: rigserve upgrade --dry-run")
@file_option
@click.option("--all", "everything", is_flag=True, help="Make every worker anew, also those that are as the file says.")
@click.option("--back", is_flag=True, help="Put the files before the last `rigserve compose` in place again first.")
@click.option("--anyway", is_flag=True, help="Go on although a check says no, or a model would stop answering for a while.")
@click.option("--dry-run", is_flag=True, help="Say what would be made anew, in which order, and do nothing.")
@json_option
def upgrade(file: Path, everything: bool, back: bool, anyway: bool, dry_run: bool, as_json: bool) -> None:
    """Bring the running stack to what the file says: one placement after the other is drained, made anew, and waited for; then the gateway.

    Stops at the first that does not become ready, and says how to go back."""
    if back and not dry_run:
        swap_previous(file.absolute().parent)
    stack = generated(file)
    versions()
    config = stack.compose.config()
    refuse(problems(stack, config, detect(), build=False), anyway, as_json)
    steps = plan_steps(stack, config["services"], _stale(stack, config["services"], everything))
    if dry_run:
        _say_steps(steps, as_json)
        return
    done: list[str] = []
    for step in steps:
        _one(stack, config["services"], step, done, anyway)
        done.append(step.service)
    stack.compose.show_on_stderr("up", "--detach", "--no-build", "--no-recreate", "--remove-orphans")  # new ones started, gone ones removed
    if as_json:
        print_json({"upgraded": done, "files_swapped": back})
    else:
        click.echo(f"upgraded: {', '.join(done) if done else 'nothing, all runs as the file says'}")


def plan_steps(stack: Generated, services: dict[str, Any], stale: dict[str, str]) -> list[Step]:
    """In the plan's order, workers before the gateway, because an old gateway knows the old workers' names.

    Two workers of one model never come one behind the other where another model's can come between: the first has then had the longest
    time to prove itself.
    """
    workers = [name for name in stack.placements if name in stale]
    models = {name: placement.model_id for name, placement in stack.placements.items()}
    rest, order = list(workers), list[str]()
    while rest:
        last = models[order[-1]] if order else None
        following = next((name for name in rest if models[name] != last), rest[0])
        rest.remove(following)
        order.append(following)
    steps = []
    for name in order:
        others = tuple(other for other in stack.placements if other != name and models[other] == models[name] and other in services)
        steps.append(Step(name, models[name], others, stale[name]))
    return [*steps, *(Step(name, None, (), stale[name]) for name in ("gateway", "prometheus", "grafana") if name in stale)]


def _stale(stack: Generated, services: dict[str, Any], everything: bool) -> dict[str, str]:
    """Running services that are not what the file says -> why. Compose labels a container with the hash of what it was made from."""
    hashes = dict(
        line.split() for line in ask(stack.compose.argv("config", "--hash", "*"), "the file can't be read").splitlines() if line.strip()
    )
    found: dict[str, str] = {}
    for container in stack.compose.containers():
        name = container.service
        if name not in services or name.startswith("fetch-") or container.state != "running":
            continue
        told = json.loads(ask([program(), "inspect", container.name], f"{container.name} can't be looked at"))[0]
        if told["Config"]["Labels"].get("com.docker.compose.config-hash") != hashes.get(name):
            found[name] = "the file has changed"
        elif told["Image"] != _image_id(services[name]["image"]):
            found[name] = "its image was built anew"
        elif everything and name in stack.placements:
            found[name] = "asked for"
    return found


def _image_id(name: str) -> str:
    return ask([program(), "image", "inspect", "--format", "{{.Id}}", name], f"the image {name} is not there").strip()


def _one(stack: Generated, services: dict[str, Any], step: Step, done: list[str], anyway: bool) -> None:
    """1. Another replica is ready now, if the model has one. 2. Weights. 3. SIGTERM (the worker drains), remove, make, start.
    4. Healthy, and seen so by the gateway."""
    states = _states(stack)
    if step.others and not any(states.get(name) == "healthy" for name in step.others) and not anyway:  # 1
        raise _stopped(step, done, f"no other replica of {step.model_id} is ready ({', '.join(step.others)}), so it would stop answering; "
                       "nothing was done to it. See `rigserve ps`, or go on with --anyway", untouched=True)
    if step.model_id and not step.others:
        click.echo(f"{step.service}: {step.model_id} has no second replica, it does not answer until this one is back", err=True)
    click.echo(f"{step.service}: {step.why}; draining", err=True)
    fetches = [name for name in services[step.service].get("depends_on") or {} if name.startswith("fetch-")]
    for fetch in fetches:  # 2
        if stack.compose.show_on_stderr("run", "--rm", "--no-deps", fetch):
            reason = f"its weights could not be fetched ({fetch}, the reason is above); it still runs as before"
            raise _stopped(step, done, reason, untouched=True)
    # 3. Not `up --no-deps`: compose then labels the container with another hash, and the next `up` would make it anew once more.
    for words in (("rm", "--stop", "--force"), ("up", "--detach", "--no-build", "--no-recreate")):
        if stack.compose.show_on_stderr(*words, step.service):
            raise _stopped(step, done, "docker compose could not make it anew (its reason is above)")
    _wait_ready(stack, services, step, done)  # 4


def _wait_ready(stack: Generated, services: dict[str, Any], step: Step, done: list[str]) -> None:
    until = time.monotonic() + seconds(services[step.service].get("healthcheck", {}).get("start_period", "0s")) + PATIENCE_S
    while (state := _states(stack).get(step.service, "gone")) != "healthy":
        if state in ("unhealthy", "exited", "dead", "gone", "restarting") or time.monotonic() > until:
            raise _stopped(step, done, f"it did not become ready ({state}); why: rigserve logs {step.service}")
        if state == "running":  # nobody checks its health
            return
        time.sleep(POLL_S)
    seen_until = time.monotonic() + SEEN_S
    while step.model_id and not _gateway_sees(stack, step.service) and time.monotonic() < seen_until:
        time.sleep(1.0)
    click.echo(f"{step.service}: ready", err=True)


def _states(stack: Generated) -> dict[str, str]:
    """Service -> healthy, starting, unhealthy; its state where nobody checks or it does not run."""
    return {c.service: (c.health or c.state) if c.state == "running" else c.state for c in stack.compose.containers()}


def _gateway_sees(stack: Generated, service: str) -> bool:
    """Whether the gateway sends requests there. One that does not answer, or is older than this placement, can't be asked."""
    ident = stack.placements[service].id
    try:
        cards: dict[str, Any] = ask_gateway(stack.url, "/v1/cards", timeout_s=2.0)
    except (OSError, ValueError):
        return False
    states = {p["id"]: p["state"] for card in cards["data"] for p in card["placements"]}
    return bool(states.get(ident, "ready") == "ready")


def _stopped(step: Step, done: list[str], reason: str, *, untouched: bool = False) -> DockerError:
    before = f"upgraded before it: {', '.join(done)}. " if done else "nothing was upgraded before it. "
    back = "" if untouched and not done else "Go back with `rigserve upgrade --back`, or mend it and run `rigserve upgrade` again."
    return DockerError(f"{step.service}: {reason}. {before}{back}".rstrip())


def _say_steps(steps: list[Step], as_json: bool) -> None:
    if as_json:
        print_json({"steps": steps})
        return
    for step in steps:
        alone = "the model stops answering" if step.model_id else ""
        meanwhile = f"{', '.join(step.others)} answers" if step.others else alone
        click.echo(f"{step.service}: {step.why}{f'; meanwhile {meanwhile}' if meanwhile else ''}")
    if not steps:
        click.echo("nothing to do: all runs as the file says")
