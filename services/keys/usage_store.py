"""Batches of usage into the database, exactly once each, and out of it again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from services.keys import tables
from services.keys.database import Database
from services.keys.usage import SUMS, Batch, Sums, UsageId

KEPT_BATCHES_S = 7 * 86400
MAX_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Which rows. Days are of UTC and both included; None: no bound, every key. `key_id` "": requests without a key."""

    first_day: str | None = None
    last_day: str | None = None
    key_id: str | None = None


class UsageStore:
    """All methods may raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def write(self, batches: Sequence[Batch]) -> None:
        """One transaction. A batch that is there already (its answer was lost the first time) is left out."""
        now = time.time()
        table = tables.usage_batches
        with self.database.begin() as connection:
            for batch in batches:
                if connection.execute(select(table.c.id).where(table.c.id == batch.id)).first() is not None:
                    continue
                connection.execute(insert(table).values(id=batch.id, written_at=now))
                rows = [{**ident._asdict(), **sums.to_json()} for ident, sums in batch.rows.items()]
                if rows:
                    connection.execute(upsert(connection.dialect.name), rows)
            connection.execute(delete(table).where(table.c.written_at < now - KEPT_BATCHES_S))

    def read(self, asked: Asked) -> list[tuple[UsageId, Sums]]:
        """By day, key, model, card; at most MAX_ROWS of them."""
        with self.database.begin() as connection:
            found = connection.execute(_chosen(select(tables.usage), asked).order_by(*tables.usage.primary_key.columns).limit(MAX_ROWS))
            return [(UsageId(row.day, row.key_id, row.model, row.card),
                     Sums(**{name: getattr(row, name) for name in (*SUMS, "joules")})) for row in found]  # fmt: skip

    def of_day(self, day: str) -> dict[str, Sums]:
        """Each key's counts of one day (no seconds), for its limits."""
        columns = tables.usage.c
        sums = [func.sum(columns[name]).label(name) for name in SUMS[:-1]]
        with self.database.begin() as connection:
            rows = connection.execute(select(columns.key_id, *sums).where(columns.day == day).group_by(columns.key_id)).all()
        return {row.key_id: Sums(*(int(getattr(row, name)) for name in SUMS[:-1])) for row in rows}


def upsert(dialect: str) -> sqlite.Insert | postgresql.Insert:
    """A new row, or sums added to the old one. Null + anything is null: joules that are not known in part are not known."""
    table = tables.usage
    added = {name: table.c[name] for name in (*SUMS, "joules")}
    if dialect == "postgresql":
        into = postgresql.insert(table)
        return into.on_conflict_do_update(index_elements=list(table.primary_key), set_={n: c + into.excluded[n] for n, c in added.items()})
    also = sqlite.insert(table)
    return also.on_conflict_do_update(index_elements=list(table.primary_key), set_={n: c + also.excluded[n] for n, c in added.items()})


def _chosen(query: Select[Any], asked: Asked) -> Select[Any]:
    columns = tables.usage.c
    if asked.first_day is not None:
        query = query.where(columns.day >= asked.first_day)
    if asked.last_day is not None:
        query = query.where(columns.day <= asked.last_day)
    if asked.key_id is not None:
        query = query.where(columns.key_id == asked.key_id)
    return query
