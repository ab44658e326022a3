"""Keys, usage and audit log in a real SQLite file; the same statements for Postgres are compiled only (docs/keys.md says so)."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from services.keys import tables
from services.keys.database import Database, DatabaseError, DatabaseURLError, default_url
from services.keys.key import Limit, Limits, Role
from services.keys.spool import Spool
from services.keys.store import KeyStore, NoSuchKey
from services.keys.usage import Batch, Sums, UsageId
from services.keys.usage_store import Asked, UsageStore, upsert
from services.keys.wish import Wish

DAY = UsageId("2026-11-22", "key_1", "m", "card-0")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(str(tmp_path / "deep" / "er" / "keys ? %41#.db"))
    database.prepare()
    return database


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


def test_a_key_comes_back_without_its_secret(store: KeyStore, database: Database) -> None:
    wish = Wish("alice", Role.USER, frozenset(("m", "n")), Limits((Limit("tokens", "day", 5),), 2), 60)
    key, secret = store.create(wish, "cli:me")
    assert store.load() == (1, [key])
    assert key.prefix == secret[:9]
    assert key.expires_at == key.created_at + 60
    assert database.file is not None
    for path in database.file.parent.iterdir():
        data = path.read_bytes()
        assert not any(secret[i : i + 12].encode() in data for i in range(len(secret) - 12)), f"{path.name} holds a part of the secret"


def test_files_are_private_and_in_wal_mode(database: Database) -> None:
    assert database.file is not None
    assert stat.S_IMODE(database.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.file.parent.stat().st_mode) == 0o700
    with database.begin() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def test_every_change_is_a_new_version_and_one_row_of_the_audit_log(store: KeyStore) -> None:
    key, _ = store.create(Wish("alice"), "cli:me")
    store.limit("alice", Limits(concurrency=1), "key_admin")
    store.revoke(key.prefix, "cli:me")
    store.revoke(key.id, "cli:me")
    store.note("key_admin", "list")
    assert store.version() == 4
    assert [(row.act, row.actor, row.key_id) for row in reversed(store.audit())] == [
        ("create", "cli:me", key.id), ("limit", "key_admin", key.id), ("revoke", "cli:me", key.id), ("revoke", "cli:me", key.id),
        ("list", "key_admin", None),
    ]  # fmt: skip
    assert store.load()[1][0].revoked_at is not None


def test_names_that_mean_no_key_or_two(store: KeyStore) -> None:
    first, _ = store.create(Wish("alice"), "me")
    store.create(Wish("alice"), "me")
    with pytest.raises(NoSuchKey, match="2 keys have that name"):
        store.revoke("alice", "me")
    store.revoke(first.id, "me")
    store.revoke("alice", "me")
    for ident in ("alice", "bob", "", "' OR 1=1 --", "x" * 5000, "\x00"):
        with pytest.raises(NoSuchKey):
            store.revoke(ident, "me")


def test_the_audit_log_only_grows(store: KeyStore) -> None:
    store.create(Wish("alice"), "me")
    for statement in (update(tables.audit).values(actor="nobody"), delete(tables.audit)):
        with pytest.raises(DatabaseError, match="append-only"), store.database.begin() as connection:
            connection.execute(statement)
    assert len(store.audit()) == 1


def test_hostile_names_are_values(store: KeyStore) -> None:
    name = "Robert'); DROP TABLE rigserve_keys;-- \"%s {} 🐍"
    store.create(Wish(name), name)
    assert store.load()[1][0].name == store.audit()[0].actor == name


def test_a_missing_file_is_not_made_anew(database: Database) -> None:
    """A key file that went away must not come back empty: that would read as a gateway without keys."""
    assert database.file is not None
    for path in database.file.parent.iterdir():
        path.unlink()
    with pytest.raises(DatabaseError, match="unable to open"):
        KeyStore(database).load()
    assert not database.file.exists()


def test_what_is_no_database(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database at all " * 500)
    with pytest.raises(DatabaseError, match="not a database"):
        Database(str(garbage)).prepare()
    with pytest.raises(DatabaseError, match="can't be"):
        Database(str(tmp_path)).prepare()
    newer = Database(str(tmp_path / "newer.db"))
    newer.prepare()
    with newer.begin() as connection:
        connection.execute(update(tables.state).where(tables.state.c.name == "schema").values(value=99))
    with pytest.raises(DatabaseError, match="schema 99"):
        newer.prepare()


def test_a_locked_database_is_a_sentence_and_reading_goes_on(database: Database) -> None:
    assert database.file is not None
    with sqlite3.connect(database.file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert KeyStore(database).load() == (0, [])
        with pytest.raises(DatabaseError, match="locked"):
            KeyStore(database).create(Wish("alice"), "me")
        other.execute("ROLLBACK")


def test_two_that_write_at_once(database: Database) -> None:
    threads = [threading.Thread(target=lambda: [KeyStore(database).create(Wish("x"), "me") for _ in range(5)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version, keys = KeyStore(database).load()
    assert version == len(keys) == 15


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "://", "postgresql://[bad"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(DatabaseURLError):
        Database(url)


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert default_url() == "sqlite:////s/rigserve/rigserve.db"
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@h/d")
    assert default_url() == "postgresql://u@h/d"


def batch(ident: str, **sums: float) -> Batch:
    return Batch(ident, 100, {DAY: Sums(**sums)})  # type: ignore[arg-type]


def test_sums_add_up_and_a_batch_counts_once(database: Database) -> None:
    store = UsageStore(database)
    store.write([batch("one", requests=1, prompt_tokens=7, output_tokens=3, seconds=0.5)])
    for _ in range(2):
        store.write([batch("two", requests=2, prompt_tokens=10, images=1, seconds=0.25), batch("one", requests=1, prompt_tokens=7)])
    assert store.read(Asked()) == [(DAY, Sums(3, 0, 17, 3, 1, 0.75, None))]
    assert store.of_day("2026-11-22")["key_1"].prompt_tokens == 17
    assert store.of_day("2026-11-23") == {}
    for asked in (Asked(key_id="key_2"), Asked(first_day="2026-11-23"), Asked(last_day="2026-11-21")):
        assert store.read(asked) == []


def test_joules_are_unknown_as_soon_as_a_part_is(database: Database) -> None:
    store = UsageStore(database)
    store.write([batch("one", requests=1, joules=5.0)])
    store.write([batch("two", requests=1, joules=2.5)])
    assert store.read(Asked())[0][1].joules == 7.5
    store.write([batch("three", requests=1)])
    assert store.read(Asked())[0][1].joules is None
    sums = Sums()
    for joules in (5.0, 2.5):
        sums.add(Sums(requests=1, joules=joules))
    assert sums.joules == 7.5
    sums.add(Sums(requests=1))
    assert sums.joules is None


def test_a_batch_is_bounded_and_counts_what_it_lost() -> None:
    small = Batch("x", 2)
    for model in ("a", "b", "c", "a"):
        small.add(UsageId("d", "", model, ""), Sums(requests=1))
    assert [sums.requests for sums in small.rows.values()] == [2, 1]
    assert small.lost_requests == 1


def test_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.json", 10)
    assert spool.load() == []
    assert spool.save([batch("one", requests=1, seconds=0.5)])
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600
    loaded = spool.load()
    assert loaded is not None
    assert (loaded[0].id, loaded[0].rows) == ("one", {DAY: Sums(1, seconds=0.5)})
    spool.path.write_text('[{"id": 1}]')
    assert spool.load() is None
    assert not spool.path.exists()
    assert spool.clear()
    assert not Spool(tmp_path / "none" / "spool.json", 10).save([])


def test_the_same_statements_for_postgres() -> None:
    """Compiled, not run: there is no Postgres in the tests."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    said = str(upsert("postgresql").compile(dialect=dialect))
    assert "ON CONFLICT (day, key_id, model, card) DO UPDATE" in said
    assert "prompt_tokens = (rigserve_usage.prompt_tokens + excluded.prompt_tokens)" in said
    for table in tables.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
    assert "BYTEA" in str(CreateTable(tables.keys).compile(dialect=dialect))
    values = dict(day="d", key_id="k", model="m", card="c", **Sums().to_json())
    assert "INSERT" in str(insert(tables.usage).values(values).compile(dialect=dialect))
    assert "SELECT" in str(select(tables.keys).compile(dialect=dialect))
