"""`rigserve gateway`: the gateway alone, over workers that are already there or come up later."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

PROJECT = Path(__file__).parents[2]


@click.command(epilog="Example: rigserve gateway --backend llama-3.1-8b-instruct=http://127.0.0.1:9001 --port 8000")
@click.option("--backend", "backends", multiple=True, help="MODEL=URL of an OpenAI-compatible server; may be repeated.")
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False), help="A plan file (with --endpoints).")
@click.option("--endpoints", type=click.Path(exists=True, dir_okay=False), help="Where each placement of the plan listens.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def gateway(backends: tuple[str, ...], plan_file: str | None, endpoints: str | None, host: str, port: int) -> None:
    """Run the gateway alone. With --backend: no plan, no cards known, any API key accepted on loopback."""
    if not backends and not plan_file:
        raise click.UsageError("name at least one --backend MODEL=URL, or a --plan with --endpoints")
    for backend in backends:
        model, equals, url = backend.partition("=")
        if not model or not equals or not url.startswith(("http://", "https://")):
            shown = "" if "@" in backend else f"{backend!r}: "  # never a password
            raise click.BadParameter(f"{shown}write MODEL=URL, for example qwen=http://127.0.0.1:9001", param_hint="--backend")
    argv = [sys.executable, "-m", "services.gateway", "--host", host, "--port", str(port)]
    for backend in backends:
        argv += ["--backend", backend]
    for flag, value in (("--plan", plan_file), ("--endpoints", endpoints)):
        if value:
            argv += [flag, str(Path(value).resolve())]
    os.chdir(PROJECT)
    os.execv(sys.executable, argv)  # noqa: S606 - the same interpreter, an argument list, no shell
