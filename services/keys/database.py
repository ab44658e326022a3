"""The database as an engine: SQLite in WAL mode, or Postgres. Every error of it is a DatabaseError with a sentence.

Where it is, is a URL: `sqlite:////path/rigserve.db` or `postgresql+psycopg://user@host/name`. A password belongs in DATABASE_URL or,
better, in a pgpass file; never on a command line, which every user of the machine can read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from services.keys import tables

WAIT_S = 2.0  # for somebody else's lock
KEY_VERSION = "key_version"


class DatabaseError(Exception):
    """The database can't be used now. The message is for the operator: it names no secret."""


class DatabaseURLError(ValueError):
    """What was given is no place for a database."""


def default_path() -> Path:
    """$XDG_STATE_HOME/rigserve/rigserve.db: not in the checkout, whose folders may be wiped."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "rigserve" / "rigserve.db"


def default_url() -> str:
    """DATABASE_URL, else the default file."""
    return os.environ.get("DATABASE_URL") or f"sqlite:///{default_path()}"


def parse(text: str) -> URL:
    """Raises DatabaseURLError. A plain path is an SQLite file."""
    try:
        url = make_url(text if "://" in text else f"sqlite:///{Path(text).absolute()}")
    except (ArgumentError, ValueError):
        raise DatabaseURLError("The database must be a file, sqlite:////path/to/file.db, or postgresql://user@host/name.") from None
    kind = url.get_backend_name()
    if kind == "postgres":
        url, kind = url.set(drivername="postgresql"), "postgresql"
    if kind not in ("sqlite", "postgresql"):
        raise DatabaseURLError(f"{kind} is not a database that rigserve knows; use SQLite or Postgres.")
    if kind == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if not url.database or url.database == ":memory:":
        raise DatabaseURLError("An SQLite database needs a file, like sqlite:////var/lib/rigserve/rigserve.db.")
    return url


class Database:
    """One place. Opening it does nothing yet; `prepare` makes what is missing. Raises DatabaseURLError."""

    def __init__(self, text: str) -> None:
        self.url = parse(text)
        self.shown = self.url.render_as_string(hide_password=True)
        try:
            self.engine = _sqlite(self.url) if self.file else create_engine(self.url, pool_pre_ping=True, pool_size=3, connect_args={
                "connect_timeout": int(WAIT_S), "options": f"-c statement_timeout={int(5000 * WAIT_S)}",
            })  # fmt: skip
        except (NoSuchModuleError, ModuleNotFoundError):
            raise DatabaseURLError("Postgres needs its driver: pip install 'rigserve[postgres]' (psycopg).") from None

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for Postgres."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    def prepare(self) -> None:
        """Makes file (0600) and tables where they are missing. Raises DatabaseError."""
        if self.file is not None:
            _private_file(self.file)
        with self.begin() as connection:
            if not inspect(connection).has_table(tables.state.name):
                tables.metadata.create_all(connection)
                for name, value in (("schema", tables.SCHEMA), (KEY_VERSION, 0)):
                    connection.execute(insert(tables.state).values(name=name, value=value))
            found = connection.execute(select(tables.state.c.value).where(tables.state.c.name == "schema")).scalar()
            if found != tables.SCHEMA:
                raise DatabaseError(f"{self.shown} has the schema {found}; this rigserve knows {tables.SCHEMA}.")

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction. Raises DatabaseError."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:  # sqlite3's own: what fails in the pragmas is not translated
            raise DatabaseError(f"The database {self.shown} can't be used: {reason(error)}.") from error

    def close(self) -> None:
        self.engine.dispose()


def reason(error: Exception) -> str:
    """The driver's own words, without the statement and its values."""
    words = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
    return (words[0] if words else type(error).__name__)[:200].rstrip(".")


def _sqlite(url: URL) -> Engine:
    """No pool: a file that was moved or replaced is seen at the next use. Never makes the file: a key file that went missing must not
    come back empty, which would read as a gateway without keys."""
    path = Path(url.database or "").absolute()
    uri = URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(uri, poolclass=NullPool, connect_args={"timeout": WAIT_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _private_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DatabaseError(f"The database {path} can't be made: {error.strerror or error}.") from error
