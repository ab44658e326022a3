"""`rigserve keys`: API keys of a gateway, by way of its database. A running gateway sees every change within a second."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from services.keys.database import Database, DatabaseError, DatabaseURLError, default_url, parse
from services.keys.key import Key, Role
from services.keys.store import KeyStore, NoSuchKey
from services.keys.wish import Wish, WishError, life_of_word, limits_of_words, models_of, name_of

P = ParamSpec("P")
R = TypeVar("R")

database_option = click.option("--database", metavar="URL", help="A file, sqlite:///... or postgresql://... Default: DATABASE_URL, else "
                               "rigserve/rigserve.db in $XDG_STATE_HOME (~/.local/state).")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
limit_option = click.option("--limit", "limits", multiple=True, metavar="UNIT=N/WINDOW",
                            help="Requests, tokens or images per minute, hour or day: requests=60/minute. May be repeated.")  # fmt: skip
concurrency_option = click.option("--concurrency", type=click.IntRange(1), help="Requests under way at once.")


def sentences(command: Callable[P, R]) -> Callable[P, R]:
    """What can't be understood ends with code 2, what can't be done with code 1, each with a sentence."""

    @wraps(command)
    def said(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return command(*arguments, **options)
        except (WishError, DatabaseURLError) as error:
            raise click.UsageError(str(error)) from error
        except (DatabaseError, NoSuchKey) as error:
            raise click.ClickException(str(error)) from error

    return said


@click.group(epilog="Example: rigserve keys create alice --limit requests=60/minute --limit tokens=200000/day --expires 90d")
def keys() -> None:
    """Make, list, limit and revoke API keys. Until the first key is made, a gateway serves only this machine."""


@keys.command(epilog="Example: rigserve keys create alice --model llama-3.1-8b-instruct --limit tokens=200000/day")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.USER.value, show_default=True,
              help="user: infers, sees its own usage. admin: keys, all usage, metrics; never infers.")  # fmt: skip
@click.option("--model", "models", multiple=True, help="A model that it may use; may be repeated. Default: all.")
@limit_option
@concurrency_option
@click.option("--expires", metavar="TIME", help="From now, as 90m, 24h, 30d or 8w. Default: never.")
@database_option
@json_option
@sentences
def create(name: str, role: str, models: tuple[str, ...], limits: tuple[str, ...], concurrency: int | None, expires: str | None,
           database: str | None, as_json: bool) -> None:
    """Make a key. It is shown once, now; only its SHA-256 is kept."""
    wish = Wish(name_of(name), Role(role), models_of(list(models) or None), limits_of_words(limits, concurrency), life_of_word(expires))
    key, secret = store(database).create(wish, actor())
    if as_json:
        click.echo(json.dumps(key.to_json(time.time()) | {"key": secret}, indent=2))
        return
    click.echo(secret)
    click.echo(f"{key.id} ({key.role}) for {key.name}; keep the line above, it can't be shown again.", err=True)


@keys.command("list", epilog="Example: rigserve keys list --json")
@database_option
@json_option
@sentences
def list_keys(database: str | None, as_json: bool) -> None:
    """Show all keys that were ever made, without their secrets."""
    now = time.time()
    found = store(database).load()[1]
    if as_json:
        click.echo(json.dumps([key.to_json(now) for key in found], indent=2))
        return
    if not found:
        click.echo("no keys yet; rigserve keys create NAME makes one")
        return
    rows = [("ID", "PREFIX", "NAME", "ROLE", "STATE", "EXPIRES", "MODELS", "LIMITS"), *(_cells(key, now) for key in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command(epilog="Example: rigserve keys revoke alice")
@click.argument("key")
@database_option
@json_option
@sentences
def revoke(key: str, database: str | None, as_json: bool) -> None:
    """Revoke KEY (its id, name or shown prefix). It opens nothing from then on; its usage stays."""
    _say(store(database).revoke(key, actor()), as_json, "is revoked")


@keys.command(epilog="Example: rigserve keys limit alice --limit tokens=500000/day --concurrency 2")
@click.argument("key")
@limit_option
@concurrency_option
@database_option
@json_option
@sentences
def limit(key: str, limits: tuple[str, ...], concurrency: int | None, database: str | None, as_json: bool) -> None:
    """Put these limits in the place of those that KEY (its id, name or shown prefix) has; without any, it has none."""
    changed = store(database).limit(key, limits_of_words(limits, concurrency), actor())
    _say(changed, as_json, f"may now use: {_limits(changed)}")


def store(database: str | None) -> KeyStore:
    """Raises DatabaseURLError, DatabaseError."""
    if database is not None and parse(database).password:
        raise DatabaseURLError("A password on the command line is read by every user of this machine; put the URL into DATABASE_URL.")
    place = Database(database or default_url())
    place.prepare()
    return KeyStore(place)


def actor() -> str:
    """Who did it, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, in a container
        return "cli"


def _say(key: Key, as_json: bool, done: str) -> None:
    click.echo(json.dumps(key.to_json(time.time()), indent=2) if as_json else f"{key.id} ({key.name}) {done}")


def _cells(key: Key, now: float) -> tuple[str, ...]:
    return (key.id, key.prefix + "...", key.name, key.role.value, key.state(now), _day(key.expires_at),
            "all" if key.models is None else ",".join(sorted(key.models)), _limits(key))  # fmt: skip


def _limits(key: Key) -> str:
    words = [f"{limit.unit}={limit.most}/{limit.window}" for limit in key.limits.windows]
    if key.limits.concurrency is not None:
        words.append(f"concurrency={key.limits.concurrency}")
    return " ".join(words) or "no limit"


def _day(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")
