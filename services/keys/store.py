"""Every change to keys, each in one transaction with its audit row and a new key version (which a running gateway watches)."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from services.keys import tables
from services.keys.database import KEY_VERSION, Database
from services.keys.key import SHOWN_CHARACTERS, Key, Limits, Role, digest_of, new_key_id, new_secret
from services.keys.wish import Wish, limits_of

MAX_AUDIT_ROWS = 1000


class NoSuchKey(Exception):
    """There is no key of that id, name or prefix, or more than one."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act of an administrator. `at` is unix seconds; `actor`: a key's id, or `cli:USER`."""

    at: float
    actor: str
    act: str
    key_id: str | None
    detail: dict[str, Any]


class KeyStore:
    """All methods may raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def version(self) -> int:
        """Grows with every change to a key."""
        with self.database.begin() as connection:
            return int(connection.execute(select(tables.state.c.value).where(tables.state.c.name == KEY_VERSION)).scalar_one())

    def load(self) -> tuple[int, list[Key]]:
        """The version, and every key that was ever made, oldest first."""
        with self.database.begin() as connection:
            version = connection.execute(select(tables.state.c.value).where(tables.state.c.name == KEY_VERSION)).scalar_one()
            rows = connection.execute(select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.id)).mappings().all()
        return int(version), [_key(row) for row in rows]

    def create(self, wish: Wish, actor: str) -> tuple[Key, str]:
        """The key and its secret, which is nowhere else and can't be had again."""
        secret, now = new_secret(), time.time()
        key = Key(new_key_id(), wish.name, secret[:SHOWN_CHARACTERS], digest_of(secret.encode()), wish.role, wish.models, wish.limits, now,
                  None if wish.life_s is None else now + wish.life_s)  # fmt: skip
        with self.database.begin() as connection:
            connection.execute(insert(tables.keys).values(
                id=key.id, name=key.name, prefix=key.prefix, digest=key.digest, role=key.role.value, created_at=key.created_at,
                models_json=_models(key.models), limits_json=json.dumps(key.limits.to_json()), expires_at=key.expires_at,
            ))  # fmt: skip
            _acted(connection, actor, "create", key, {"name": key.name, "role": key.role, "prefix": key.prefix})
        return key, secret

    def revoke(self, ident: str, actor: str) -> Key:
        """From the next look of a gateway on it opens nothing; a second time changes nothing. Raises NoSuchKey."""
        with self.database.begin() as connection:
            key = _find(connection, ident)
            if key.revoked_at is None:
                key = replace(key, revoked_at=time.time())
                connection.execute(update(tables.keys).where(tables.keys.c.id == key.id).values(revoked_at=key.revoked_at))
            _acted(connection, actor, "revoke", key, {"name": key.name})
        return key

    def limit(self, ident: str, limits: Limits, actor: str) -> Key:
        """Puts these limits in the place of the old ones. Raises NoSuchKey."""
        with self.database.begin() as connection:
            key = _find(connection, ident)
            old, key = key.limits, replace(key, limits=limits)
            connection.execute(update(tables.keys).where(tables.keys.c.id == key.id).values(limits_json=json.dumps(limits.to_json())))
            _acted(connection, actor, "limit", key, {"old": old.to_json(), "new": limits.to_json()})
        return key

    def note(self, actor: str, act: str, detail: dict[str, Any] | None = None) -> None:
        """An act that changed nothing (a look at all keys), in the audit log."""
        with self.database.begin() as connection:
            _audit(connection, actor, act, None, detail or {})

    def audit(self, at_most: int = MAX_AUDIT_ROWS) -> list[AuditRow]:
        """The newest first."""
        with self.database.begin() as connection:
            rows = connection.execute(select(tables.audit).order_by(tables.audit.c.at.desc()).limit(at_most)).all()
        return [AuditRow(row.at, row.actor, row.act, row.key_id, json.loads(row.detail_json)) for row in rows]


def _find(connection: Connection, ident: str) -> Key:
    """By id, else by a name or a shown prefix that only one key has that was not revoked."""
    columns = tables.keys.c
    by_id = connection.execute(select(tables.keys).where(columns.id == ident)).mappings().first()
    if by_id is not None:
        return _key(by_id)
    same = (columns.name == ident) | (columns.prefix == ident)
    rows = connection.execute(select(tables.keys).where(same, columns.revoked_at.is_(None))).mappings().all()
    if len(rows) != 1:
        many = f"{len(rows)} keys have that name or prefix; give the id" if rows else "there is no such key that is not revoked"
        raise NoSuchKey(f"{ident[:60]!r}: {many} (`rigserve keys list` shows them)")
    return _key(rows[0])


def _acted(connection: Connection, actor: str, act: str, key: Key, detail: dict[str, Any]) -> None:
    state = tables.state
    connection.execute(update(state).where(state.c.name == KEY_VERSION).values(value=state.c.value + 1))
    _audit(connection, actor, act, key.id, detail)


def _audit(connection: Connection, actor: str, act: str, key_id: str | None, detail: dict[str, Any]) -> None:
    connection.execute(insert(tables.audit).values(
        id=uuid.uuid4().hex, at=time.time(), actor=actor[:200], act=act, key_id=key_id, detail_json=json.dumps(detail),
    ))  # fmt: skip


def _models(models: frozenset[str] | None) -> str | None:
    return None if models is None else json.dumps(sorted(models))


def _key(row: RowMapping) -> Key:
    models = None if row["models_json"] is None else frozenset(json.loads(row["models_json"]))
    return Key(row["id"], row["name"], row["prefix"], bytes(row["digest"]), Role(row["role"]), models,
               limits_of(json.loads(row["limits_json"])), row["created_at"], row["expires_at"], row["revoked_at"])  # fmt: skip
