"""Building our images: the arguments are those of the generated file, which come from the image table."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from services.cli.docker import DockerError, program


def build_images(missing: Mapping[str, dict[str, Any]], wheels: Path | None) -> None:
    """One after the other: two builds at once fill a small host's memory. `wheels`: a folder that pip looks into first.

    Raises DockerError at the first that fails, or for an image that nothing says how to build.
    """
    for name, build in missing.items():
        if not build:
            raise DockerError(f"{name} is missing and the file does not say how to build it: write it again with `rigserve compose`")
        click.echo(f"building {name} ...", err=True)
        done = subprocess.run(build_argv(name, build, wheels), check=False, stdout=2)
        if done.returncode:
            raise DockerError(f"{name} was not built (exit code {done.returncode}; the reason is above); nothing was started")


def build_argv(name: str, build: Mapping[str, Any], wheels: Path | None) -> list[str]:
    """`docker build` for one image."""
    args = [word for key, value in (build.get("args") or {}).items() for word in ("--build-arg", f"{key}={value}")]
    context = ["--build-context", f"wheels={wheels.absolute()}"] if wheels else []
    dockerfile = Path(build["context"]) / build.get("dockerfile", "Dockerfile")
    return [program(), "build", "-t", name, "-f", str(dockerfile), *args, *context, str(build["context"])]
