"""R4: the database of keys and usage breaks, or a key goes, while clients ask."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.keys.database import Database
from services.keys.store import KeyStore
from services.keys.wish import Wish
from tests.fakes.process import FakeEngineProcess, fake_engine  # noqa: F401
from tests.gateway.keyed import Keyed, bearer, start_keyed
from tests.gateway.rig import CHAT, chat, start_gateway, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import scrape, way_flags

pytestmark = pytest.mark.reliability


@pytest.fixture
def keyed(tmp_path: Path, way: str) -> Iterator[Keyed]:
    keyed = start_keyed(tmp_path, *way_flags(way))
    yield keyed
    until(lambda: keyed.gateway.seats() == 0, "all seats back to 0")
    keyed.stop()


def code(keyed: Keyed, secret: str | None) -> tuple[int, str | None]:
    answer = keyed.ask(secret, max_tokens=1)
    return answer.status_code, answer.json().get("error", {}).get("code")


@scenario(42)
def test_a_key_is_revoked_in_mid_stream(keyed: Keyed, seen: Seen) -> None:
    ident, secret = keyed.make("alice")
    keyed.engines[0].set(itl_s=0.05)
    with keyed.gateway.http.stream("POST", CHAT, json=chat(stream=True, max_tokens=60), headers=bearer(secret)) as stream:
        lines = stream.iter_lines()
        next(lines)
        keyed.store.revoke(ident, "test")
        started = time.monotonic()
        keyed.engines[0].set(itl_s=0.05)
        until(lambda: code(keyed, secret) == (401, "invalid_api_key"), "revoked", 5)
        took_s = time.monotonic() - started
        assert "[DONE]" in "".join(lines), "what was begun may end, and is counted"
    until(lambda: keyed.get("/v1/usage", keyed.secrets[0]).json()["totals"]["output_tokens"] >= 60, "counted")
    seen(status=f"401 after {took_s:.1f} s, in another process", stream="goes on to its end, and is counted",
         metric="access_refused{code=invalid_api_key} +1", seats=0)  # fmt: skip


@scenario(43)
@pytest.mark.parametrize("fault", ["locked", "full", "refused"])
def test_the_usage_database_can_not_be_written(keyed: Keyed, seen: Seen, fault: str) -> None:
    """`full`: no file of the gateway's process may grow, as on a full disk. `refused`: the database takes no usage, and says so."""
    _, secret = keyed.make("alice")
    file = keyed.store.database.file
    assert file is not None
    pid, old = keyed.gateway.process.pid, resource.prlimit(keyed.gateway.process.pid, resource.RLIMIT_FSIZE)
    with sqlite3.connect(file, isolation_level=None) as other:
        if fault == "locked":
            other.execute("BEGIN IMMEDIATE")
        elif fault == "full":
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, old[1]))
        else:
            other.execute("CREATE TRIGGER no_more BEFORE INSERT ON rigserve_usage BEGIN SELECT RAISE(FAIL, 'readonly database'); END")
        for _ in range(10):
            assert code(keyed, secret) == (200, None)
            assert code(keyed, "rs-wrong")[0] == 401
        until(lambda: scrape(keyed.gateway).sum("rigserve_usage_write_failures_total") >= 1, "counted", 12)
        assert scrape(keyed.gateway).sum("rigserve_usage_waiting_rows") >= 1
        assert code(keyed, secret) == (200, None)
        if fault == "locked":
            other.execute("ROLLBACK")
        elif fault == "full":
            resource.prlimit(pid, resource.RLIMIT_FSIZE, old)
        else:
            other.execute("DROP TRIGGER no_more")
    until(lambda: keyed.get("/v1/usage", secret).status_code == 200, "written at last", 10)
    assert keyed.get("/v1/usage", secret).json()["totals"]["requests"] == 11
    assert scrape(keyed.gateway).sum("rigserve_usage_lost_requests_total") == 0
    seen(faults=fault, status="200 with a key, 401 without, meanwhile", usage="11 of 11 requests counted in the end",
         metric="usage_write_failures +1, usage_waiting_rows 1, usage_lost_requests 0", seats=0)  # fmt: skip


@scenario(44)
@pytest.mark.parametrize("content", [b"no database " * 1000, b"", b"SQLite format 3\0" + bytes(4000)])
def test_a_corrupt_database_at_the_start(
    tmp_path: Path, way: str, seen: Seen, content: bytes, fake_engine: type[FakeEngineProcess]  # noqa: F811
) -> None:
    good = tmp_path / "good.db"
    database = Database(str(good))
    database.prepare()
    _, secret = KeyStore(database).create(Wish("alice"), "test")
    broken = tmp_path / "rigserve.db"
    broken.write_bytes(content)
    engine = fake_engine("solo")
    flags = (f"--backend=solo={engine.url}/v1", "--database", str(broken), "--open-status", "--published-on", "0.0.0.0", *way_flags(way))
    gateway = start_gateway(tmp_path, *flags)
    try:
        gateway.wait_ready()
        for headers in ({}, bearer(secret), bearer("rs-wrong")):
            answer = gateway.http.post(CHAT, json=chat(), headers=headers)
            assert answer.status_code == (401 if content == b"" else 503)
        assert engine.state()["seen"] == [], "nobody got in"
        assert '"event":"no_keys"' in gateway.log.read_text() or '"event":"keys_not_read"' in gateway.log.read_text()
        assert gateway.seats() == 0
    finally:
        gateway.stop()
    seen(status="503 keys_unavailable for everybody; 401 where the file is empty", log="keys_not_read, or no_keys with what to do", seats=0)


@scenario(48)
def test_two_gateways_on_one_database(keyed: Keyed, way: str, seen: Seen, tmp_path: Path) -> None:
    """Windows are counted by each gateway for itself (docs/keys.md), so together they admit twice; sums and keys are shared."""
    _, secret = keyed.make("alice", limits={"requests": {"minute": 3}})
    flags = (f"--backend=solo={keyed.engines[0].url}/v1", "--database", str(keyed.store.database.file), "--open-status", *way_flags(way))
    second = start_gateway(tmp_path, *flags)
    try:
        second.wait_ready()
        if time.time() % 60 > 55:
            time.sleep(5)
        body, headers = chat(max_tokens=1), bearer(secret)
        answers = [gateway.http.post(CHAT, json=body, headers=headers) for _ in range(5) for gateway in (keyed.gateway, second)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
        ids = {answer.headers["x-request-id"] for answer in answers}
        assert len(ids) == 10, "no id twice"
        engine_ids = [one["headers"]["x-request-id"] for one in keyed.engines[0].state()["seen"]]
        assert len(set(engine_ids)) == len(engine_ids)
        until(lambda: keyed.get("/v1/usage", secret).json()["totals"]["requests"] == 6, "the sums of both", 8)
        assert second.http.get("/v1/usage", headers=bearer(secret)).json()["totals"]["requests"] == 6
    finally:
        second.stop()
    assert "Two gateways on one database count apart" in (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
    seen(ids="10 of 10 differ", limits="3 a minute in each: documented", usage="6, the sum of both, told by both", seats=0)
