"""The `docker` program as a child: what is asked of it, and its errors as sentences. Nothing else of rigserve starts it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

LEAST_ENGINE = (25, 0)  # healthcheck.start_interval
LEAST_COMPOSE = (2, 26)  # the oldest that the generated file was tried with
ASK_TIMEOUT_S = 60.0
INSTALL = "install Docker Engine 25 or newer with its compose plugin (Debian 13, Ubuntu: apt install docker.io docker-compose-v2)"


class DockerError(click.ClickException):
    """docker can't do what was asked of it. The message is the sentence for the user."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What answered: "26.1.5", "2.26.1"."""

    engine: str
    compose: str


@dataclass(frozen=True, slots=True)
class Container:
    """One line of `docker compose ps`. `health`: healthy, unhealthy, starting, or empty where nobody checks."""

    service: str
    name: str
    state: str
    health: str
    exit_code: int
    status: str


@dataclass(frozen=True, slots=True)
class Compose:
    """`docker compose` on one generated file."""

    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    def argv(self, *words: str) -> list[str]:
        return [program(), "compose", "-f", str(self.file), *words]

    def show(self, *words: str) -> int:
        """Run with our own output; the exit code."""
        return subprocess.run(self.argv(*words), check=False).returncode

    def show_on_stderr(self, *words: str) -> int:
        """The same, with everything it prints on standard error: ours is for the answer."""
        return subprocess.run(self.argv(*words), check=False, stdout=2).returncode

    def config(self) -> dict[str, Any]:
        """The file as compose understands it, with the services of the active profiles. Raises DockerError."""
        told: dict[str, Any] = json.loads(ask(self.argv("config", "--format", "json"), f"{self.file} can't be used"))
        return told

    def containers(self) -> tuple[Container, ...]:
        """Every container of the stack, stopped ones too. Raises DockerError."""
        text = ask(self.argv("--profile", "*", "ps", "--all", "--format", "json"), "the stack's containers can't be listed")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
        return tuple(
            Container(row["Service"], row["Name"], row["State"], row.get("Health") or "", row.get("ExitCode") or 0, row.get("Status") or "")
            for row in rows
        )


def program() -> str:
    """Where docker is. Raises DockerError."""
    found = shutil.which("docker")
    if found is None:
        raise DockerError(f"there is no docker program on this machine: {INSTALL}, or use `rigserve serve`, which needs no containers")
    return found


def ask(argv: Sequence[str], what: str, timeout_s: float = ASK_TIMEOUT_S) -> str:
    """What docker prints. Raises DockerError: `what`, and docker's own last line."""
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"{what}: docker did not answer within {timeout_s:.0f} s; is its daemon stuck?") from error
    except OSError as error:
        raise DockerError(f"{what}: docker can't be started ({error.strerror})") from error
    if done.returncode:
        raise DockerError(f"{what}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def answers(argv: Sequence[str]) -> bool:
    """Whether docker says yes (exit code 0)."""
    return subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def versions() -> Versions:
    """1. docker is there. 2. It has compose, and not the dead v1. 3. That is new enough. 4. The daemon answers. 5. It is new enough.

    Raises DockerError with what to do.
    """
    docker = program()  # 1
    try:
        compose = ask([docker, "compose", "version", "--short"], "docker has no compose plugin").strip().removeprefix("v")
    except DockerError as error:  # 2
        old = "docker-compose on this machine is version 1, which can't read the file; " if shutil.which("docker-compose") else ""
        raise DockerError(f"docker has no `docker compose` command: {old}{INSTALL}") from error
    if parsed(compose) < LEAST_COMPOSE:  # 3
        raise DockerError(f"docker compose is {compose}; {_dotted(LEAST_COMPOSE)} or newer is needed: {INSTALL}")
    engine = ask([docker, "version", "--format", "{{.Server.Version}}"], _unreachable()).strip()  # 4
    if parsed(engine) < LEAST_ENGINE:  # 5
        raise DockerError(f"the docker engine is {engine}; {_dotted(LEAST_ENGINE)} or newer is needed (health checks that start fast)")
    return Versions(engine, compose)


def parsed(version: str) -> tuple[int, int]:
    """(26, 1) of "26.1.5+dfsg1"; (0, 0) of what is no version."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _unreachable() -> str:
    return "the docker daemon does not answer (start it, or add this user to the group docker, or use sudo)"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it said nothing"
