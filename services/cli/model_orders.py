"""`rigserve models load|unload|pin|unpin`: orders to a running gateway about models that are loaded on demand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from services.cli.accuracy import DEFAULT_URL

ORDERS = {
    "load": "Load MODEL now, before anybody asks for it.",
    "unload": "Unload MODEL once its running requests have ended; the next request loads it again. Takes a pin away.",
    "pin": "Load MODEL and keep it in memory, whoever waits for its room.",
    "unpin": "Let MODEL go when its room is needed.",
}


def send(url: str, what: str, model: str, key_file: Path | None) -> Any:
    """The gateway's answer. Raises ClickException with its sentence, or saying that nobody answers."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not an http(s) URL", param_hint="--url")
    headers = {"Content-Type": "application/json"}
    if key_file is not None:
        headers["Authorization"] = f"Bearer {key_file.read_text(encoding='utf8').strip()}"
    data = json.dumps({"model": model}).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/models/{what}", data, headers, method="POST")  # noqa: S310 - http(s), checked
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise click.ClickException(_sentence(error)) from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"no gateway answers at {url} ({error}); start one with `rigserve serve`") from error


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {error.code} {error.reason}"


def order_command(what: str, about: str) -> click.Command:
    @click.command(name=what, help=about, epilog=f"Example: rigserve models {what} sd-1.5")
    @click.argument("model")
    @click.option("--url", default=DEFAULT_URL, show_default=True, help="The gateway to tell.")
    @click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                  help="A file with an admin key, where keys are asked for.")
    def order(model: str, url: str, key_file: Path | None) -> None:
        said = send(url, what, model, key_file)
        loaded_s = said.get("loaded_in_s")
        soon = f"; in memory in about {loaded_s:.0f} s" if what in ("load", "pin") and loaded_s is not None else ""
        click.echo(f"{said['id']}: {said['state']}{soon}")

    return order
