"""`rigserve top`: what every card and model does, live, from a gateway's `GET /v1/throughput`."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from services.cli.accuracy import DEFAULT_URL
from services.cli.output import console, json_option, print_json
from services.cli.top_table import table_of

WINDOWS = ("10s", "1m", "5m", "1h")
ANSWER_S = 5.0
PIPE_COLUMNS = 240  # a pipe gets every column


class NoAnswer(click.ClickException):
    """The message says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """The gateway that is looked at."""

    url: str
    window: str
    key_file: Path | None

    def ask(self) -> dict[str, Any]:
        """The report. Raises NoAnswer."""
        headers = {"Accept": "application/json"}
        where = f"{self.url.rstrip('/')}/v1/throughput?window={self.window}"
        try:
            if self.key_file is not None:
                headers["Authorization"] = f"Bearer {self.key_file.read_text(encoding='utf8').strip()}"
            request = urllib.request.Request(where, headers=headers)  # noqa: S310 - http(s), checked
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            raise NoAnswer(self._refused(error)) from None
        except UnicodeError:
            raise NoAnswer(f"{self.key_file} holds no API key") from None
        except (OSError, ValueError) as error:
            raise NoAnswer(f"no gateway answers at {self.url} ({error}); start one with `rigserve serve`, or name it with --url") from None
        if not isinstance(told, dict) or told.get("object") != "throughput" or "backends" not in told:
            raise NoAnswer(f"what answers at {self.url} is no rigserve gateway of this version")
        return told

    def _refused(self, error: urllib.error.HTTPError) -> str:
        try:
            said = str(json.load(error)["error"]["message"])
        except (OSError, ValueError, KeyError, TypeError):
            said = str(error.reason)
        hint = "; name a file with an API key with --key-file" if error.code == 401 and self.key_file is None else ""
        return f"the gateway at {self.url} answered {error.code}: {said.rstrip('.')}{hint}"


@click.command(epilog="Example: rigserve top --url http://192.168.1.20:8000 --key-file key.txt --window 5m")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The gateway to look at.")
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file with an API key, where keys are asked for.")
@click.option("--window", type=click.Choice(WINDOWS), default="10s", show_default=True, help="The time that speeds and percentiles are of.")
@click.option("--every", "every_s", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Look once and end; so it is where the output is no terminal.")
@json_option
def top(url: str, key_file: Path | None, window: str, every_s: float, once: bool, as_json: bool) -> None:
    """Show what every card and model does, a row each, until Ctrl-C. With --json: the gateway's report, one line each time.

    `-` is: not known, or nothing to tell. Exit code 1: no gateway answers, or it refuses.
    """
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not an http(s) URL", param_hint="--url")
    source, out = Source(url, window, key_file), console()
    out = out if out.is_terminal else Console(width=PIPE_COLUMNS, highlight=False)
    told = source.ask()
    if as_json and once:
        print_json(told)
    elif as_json:
        _lines(source, told, every_s)
    elif once or not out.is_terminal:
        out.print(table_of(told, url, out.width))
    else:
        _live(source, told, every_s, out)


def _lines(source: Source, told: dict[str, Any], every_s: float) -> None:
    """Until Ctrl-C, or until no gateway answers."""
    try:
        while True:
            click.echo(json.dumps(told))
            time.sleep(every_s)
            told = source.ask()
    except KeyboardInterrupt:
        return


def _live(source: Source, told: dict[str, Any], every_s: float, out: Console) -> None:
    """Until Ctrl-C. A gateway that falls silent is looked for on; what it said last stays, and the first line says so."""
    silent_since: float | None = None
    try:
        with Live(table_of(told, source.url, out.width), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                try:
                    told, silent_since = source.ask(), None
                    live.update(table_of(told, source.url, out.width), refresh=True)
                except NoAnswer as error:
                    silent_since = silent_since or time.monotonic()
                    words = f"{error.message}\nfor {time.monotonic() - silent_since:.0f} s; below is what was said last"
                    live.update(Group(Text(words, style="bold red"), table_of(told, source.url, out.width)), refresh=True)
    except KeyboardInterrupt:
        return
