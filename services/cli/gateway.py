"""`rigserve gateway`: the gateway alone, over workers that are already there or come up later."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from services.keys.database import default_path

PROJECT = Path(__file__).parents[2]


@click.command(epilog="Example: rigserve gateway --backend llama-3.1-8b-instruct=http://127.0.0.1:9001 --port 8000")
@click.option("--backend", "backends", multiple=True, help="MODEL=URL of an OpenAI-compatible server; may be repeated.")
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False), help="A plan file (with --endpoints).")
@click.option("--endpoints", type=click.Path(exists=True, dir_okay=False), help="Where each placement of the plan listens.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--database", metavar="URL", help="Keys and usage: a file, sqlite:///... or postgresql://... Default: DATABASE_URL, else the "
              "file that `rigserve keys` uses.")
@click.option("--open", "opened", is_flag=True, help="While there are no keys, serve whoever reaches --host.")
@click.option("--published-on", metavar="ADDRESS", help="In a container: the host's address that its port is published on.")
@click.option("--open-status", is_flag=True, help="Answer /metrics, /v1/cards and /v1/throughput without a key.")
@click.option("--trusted-proxies", metavar="ADDRESS,...", help="Proxies before this gateway (addresses or networks) whose X-Forwarded-* "
              "headers are believed. Default: none.")
@click.option("--tariff", metavar="PRICE", help="Price of a kilowatt-hour, for the costs in /v1/throughput. Default: RIGSERVE_TARIFF, else "
              "no costs.")
@click.option("--currency", help="Of the tariff. Default: RIGSERVE_CURRENCY, else EUR.")
@click.option("--load-result", "load_results", multiple=True, type=click.Path(exists=True, dir_okay=False),
              help="result.json of a sweep of the load kit: its knee is told in /v1/throughput; may be repeated.")
def gateway(backends: tuple[str, ...], plan_file: str | None, endpoints: str | None, host: str, port: int, database: str | None,
            opened: bool, published_on: str | None, open_status: bool, trusted_proxies: str | None, tariff: str | None,
            currency: str | None, load_results: tuple[str, ...]) -> None:
    """Run the gateway alone. With --backend: no plan, no cards known. Without keys (`rigserve keys`) it serves this
    machine only: on any other address it answers 401 until the first key is made."""
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
    for result in load_results:
        argv += ["--load-result", str(Path(result).resolve())]
    for flag, value in (("--tariff", tariff), ("--currency", currency)):
        argv += [flag, value] if value else []
    argv += [*database_flags(database), *(("--open",) if opened else ()),
             *(("--published-on", published_on) if published_on else ()), *(("--open-status",) if open_status else ()),
             *(("--trusted-proxies", trusted_proxies) if trusted_proxies else ())]
    os.chdir(PROJECT)
    os.execv(sys.executable, argv)  # noqa: S606 - the same interpreter, an argument list, no shell


def database_flags(given: str | None) -> tuple[str, ...]:
    """The gateway's --database. None where the environment says it (it may hold a password, and is inherited), or where the default file
    can't be made: then there are no keys, and usage is not kept."""
    if given is not None or os.environ.get("DATABASE_URL"):
        return ("--database", given) if given else ()
    path = default_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        said = f"no keys, and usage is not kept: {path.parent} can't be made ({error.strerror}); name another file with --database"
        click.echo(said, err=True)
        return ()
    return ("--database", str(path))
