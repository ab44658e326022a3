"""What is kept of who used what: counted once, shown to its owner, and never in the way of serving."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.outcome import Ending, Outcome
from services.gateway.routes_usage import COLUMNS, csv_text
from services.gateway.usage_writer import UsageWriter
from services.keys.database import Database, DatabaseError
from services.keys.spool import Spool
from services.keys.usage import Batch
from services.keys.usage_store import Asked, UsageStore
from services.wire.shapes import TokenUsage
from tests.gateway.keyed import Keyed, bearer, start_keyed
from tests.gateway.rig import CHAT, chat, start_gateway, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    keyed = start_keyed(tmp_path_factory.mktemp("usage"))
    yield keyed
    keyed.stop()


def rows(keyed: Keyed, secret: str, query: str = "") -> list[dict[str, Any]]:
    answer = keyed.get(f"/v1/usage{query}", secret)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def test_a_key_sees_its_own_rows_and_an_admin_all(keyed: Keyed) -> None:
    (alice, one), (bob, two) = keyed.make("alice"), keyed.make("bob")
    for secret, model in ((one, "solo"), (one, "solo"), (one, "other"), (two, "solo")):
        assert keyed.ask(secret, model, max_tokens=3).status_code == 200
    mine = rows(keyed, one)
    assert [(row["model"], row["requests"], row["prompt_tokens"], row["output_tokens"]) for row in mine] == [
        ("other", 1, 7, 3), ("solo", 2, 14, 6)]
    assert {row["key_id"] for row in mine} == {alice}
    assert {row["key_name"] for row in mine} == {"alice"}
    assert all(row["joules"] is None and row["card"] is None and row["seconds"] > 0 for row in mine), "unknown is null, not 0"
    for query in ("?key=" + bob, "?key=", "?key_id=" + bob):
        assert {row["key_id"] for row in rows(keyed, one, query)} == {alice}, "another's id in the query changes nothing"
    assert {alice, bob} <= {row["key_id"] for row in rows(keyed, keyed.secrets[0])}
    assert {row["key_id"] for row in rows(keyed, keyed.secrets[0], "?key=" + bob)} == {bob}
    assert rows(keyed, one, "?to=2020-01-01") == []
    assert len(rows(keyed, one, f"?from={time.strftime('%Y-%m-%d', time.gmtime(time.time() - 86400))}")) == 2


def test_csv(keyed: Keyed) -> None:
    _, secret = keyed.make("=HYPERLINK(1)")
    keyed.ask(secret)
    answer = keyed.get("/v1/usage?format=csv", secret)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, row = csv.reader(io.StringIO(answer.text))
    assert tuple(head) == COLUMNS
    shown = dict(zip(head, row, strict=True))
    assert shown["key_name"] == "'=HYPERLINK(1)", "no formula for a spreadsheet"
    assert (shown["joules"], shown["card"], shown["requests"]) == ("", "", "1")
    assert csv_text([]) == ",".join(COLUMNS) + "\r\n"


@pytest.mark.parametrize("query", ["from=yesterday", "to=2026-13-01", "from=2026-11-32", "format=xml", "from=2026-11-22T00:00",
                                   "key=../x", "key=%00"])
def test_questions_that_are_none(keyed: Keyed, query: str) -> None:
    assert keyed.get(f"/v1/usage?{query}", keyed.secrets[0]).status_code == 400


def test_streams_and_clients_that_left_count_too(keyed: Keyed) -> None:
    _, secret = keyed.make("stream")
    with keyed.gateway.http.stream("POST", CHAT, json=chat(stream=True, max_tokens=3), headers=bearer(secret)) as stream:
        assert b"[DONE]" in stream.read()
    keyed.engines[0].set(itl_s=0.05)
    with keyed.gateway.http.stream("POST", CHAT, json=chat(stream=True, max_tokens=100), headers=bearer(secret)) as stream:
        chunks = stream.iter_raw()
        next(chunks)
    until(lambda: keyed.gateway.seats() == 0, "left")
    keyed.engines[0].reset()
    (row,) = rows(keyed, secret)
    assert (row["requests"], row["unmetered_requests"], row["output_tokens"]) == (2, 1, 3)


def test_usage_of_the_limits_survives_a_restart(tmp_path: Path) -> None:
    first = start_keyed(tmp_path)
    _, secret = first.make("alice", limits={"requests": {"day": 1}})
    assert first.ask(secret).status_code == 200
    flags = [f"--backend=solo={first.engines[0].url}/v1", "--database", str(tmp_path / "rigserve.db"), "--open-status"]
    first.gateway.stop()
    first.gateway = start_gateway(tmp_path, *flags)
    try:
        first.gateway.wait_ready()
        assert first.ask(secret).status_code == 429
        assert first.get("/v1/usage", secret).json()["totals"]["requests"] == 1, "written when it stopped"
    finally:
        first.stop()


def test_without_keys_it_is_kept_too(tmp_path: Path, fake_engine: Any) -> None:
    for flags in ((), ("--database", str(tmp_path / "usage.db"))):
        gateway = start_gateway(tmp_path, f"--backend=solo={fake_engine(model='solo').url}/v1", *flags)
        try:
            gateway.wait_ready()
            assert gateway.http.post(CHAT, json=chat(max_tokens=3)).status_code == 200
            (row,) = gateway.http.get("/v1/usage").json()["data"]
            assert (row["key_id"], row["requests"], row["output_tokens"]) == (None, 1, 3)
        finally:
            gateway.stop()


def test_a_locked_database_does_not_stop_serving(tmp_path: Path) -> None:
    """And nothing of what was used meanwhile is lost, even when the gateway ends before the lock does."""
    keyed = start_keyed(tmp_path)
    try:
        _, secret = keyed.make("alice")
        with sqlite3.connect(tmp_path / "rigserve.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            assert [keyed.ask(secret, max_tokens=3).status_code for _ in range(20)] == [200] * 20
            assert time.monotonic() - started < 2
            spool = tmp_path / "rigserve.db.usage-spool.json"
            until(spool.exists, "spooled", 8)
            assert sum(row[4]["requests"] for batch in json.loads(spool.read_text()) for row in batch["rows"]) == 20
            assert "rigserve_usage_write_failures_total 1.0" in keyed.gateway.http.get("/metrics").text
            keyed.gateway.process.kill()
            keyed.gateway.process.wait()
            keyed.gateway.stop()
            other.execute("ROLLBACK")
        keyed.gateway = start_gateway(tmp_path, f"--backend=solo={keyed.engines[0].url}/v1", "--database", str(tmp_path / "rigserve.db"))
        assert rows(keyed, secret)[0]["requests"] == 20
        assert not spool.exists()
    finally:
        keyed.stop()


# --- the writer, by itself ---

class Flaky(UsageStore):
    """`fails`: before the write, after it (the answer is lost), or not at all."""

    fails: str | None = None

    def write(self, batches: Any) -> None:
        if self.fails == "before":
            raise DatabaseError("no")
        super().write(batches)
        if self.fails == "after":
            raise DatabaseError("lost")


async def in_thread(work: Any) -> Any:
    return await asyncio.to_thread(work)


def outcome(model: str = "m") -> Outcome:
    backend: Any = type("Backend", (), {"card": None})()
    return Outcome("a", "b", CHAT, 0.0, model, backend=backend, ending=Ending.SERVED, seated_s=1.0, ended_s=2.5, tokens=TokenUsage(7, 3))


@pytest.fixture
def store(tmp_path: Path) -> Flaky:
    database = Database(str(tmp_path / "usage.db"))
    database.prepare()
    return Flaky(database)


def requests(store: UsageStore) -> int:
    return sum(sums.requests for _, sums in store.read(Asked()))


async def test_counted_once_although_the_answer_was_lost(store: Flaky, tmp_path: Path) -> None:
    writer = UsageWriter(store, Spool(tmp_path / "spool", 100), in_thread)
    writer.finished(outcome())
    store.fails = "after"
    assert not await writer.flush()
    writer.finished(outcome())
    assert not await writer.flush()
    store.fails = None
    writer.finished(outcome())
    assert await writer.flush()
    assert requests(store) == 3
    assert (writer.failures, writer.waiting_rows, (tmp_path / "spool").exists()) == (2, 0, False)


async def test_a_killed_gateways_spool_counts_once_too(store: Flaky, tmp_path: Path) -> None:
    first = UsageWriter(store, Spool(tmp_path / "spool", 100), in_thread)
    first.finished(outcome())
    store.fails = "after"
    assert not await first.flush()
    store.fails = None
    second = UsageWriter(store, Spool(tmp_path / "spool", 100), in_thread)
    second.load_spool()
    assert await second.flush()
    assert requests(store) == 1


async def test_a_long_outage_costs_no_more_than_a_short_one(store: Flaky, tmp_path: Path) -> None:
    writer = UsageWriter(store, Spool(tmp_path / "no" / "folder", 100), in_thread)
    store.fails = "before"
    for _ in range(50):
        writer.finished(outcome())
        assert not await writer.flush()
    assert writer.waiting_rows == 2, "one batch that was tried, one that gathers"
    store.fails = None
    assert await writer.flush()
    assert requests(store) == 50


async def test_what_does_not_fit_is_counted_as_lost(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.usage_writer._new_batch", lambda: Batch("x", 2))
    writer = UsageWriter(store, None, in_thread)
    for model in ("a", "b", "c", "d"):
        writer.finished(outcome(model))
    assert (writer.waiting_rows, writer.lost_requests) == (2, 2)
