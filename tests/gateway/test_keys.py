"""Who is let in: over HTTP, on the short way and by way of the application alike."""

from __future__ import annotations

import asyncio
import hmac
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway import door as door_module
from services.gateway.door import Door, Mode, limit_error
from services.gateway.ledger import Ledger
from services.gateway.settings import Settings
from services.gateway.throttle import MAX_ADDRESSES, TRIES, Throttle
from services.keys.database import Database
from services.keys.key import Key, Limit, Limits, Role, digest_of
from services.keys.meter import Over
from services.keys.store import KeyStore
from services.keys.wish import Wish
from services.wire.errors import InvalidApiKey, KeysUnavailable, PermissionDenied, QuotaExceeded, RateLimited
from tests.gateway.keyed import Keyed, bearer, start_keyed
from tests.gateway.rig import CHAT, chat, start_gateway, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    keyed = start_keyed(tmp_path_factory.mktemp("keyed"))
    yield keyed
    keyed.stop()


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_key_lets_in_and_nothing_else_does(keyed: Keyed) -> None:
    _, secret = keyed.make("alice")
    assert keyed.ask(secret).status_code == 200
    wrong = [None, "x", "rs-", secret[:-1], secret + "x", secret.upper(), "rs-" + "A" * 43, "' OR 1=1 --", "x" * 4000]
    bodies = {keyed.ask(one).text for one in wrong}
    assert len(bodies) == 1, "the same words for all that is wrong"
    answer = keyed.ask("rs-wrong")
    assert code(answer) == (401, "invalid_api_key")
    assert answer.headers["x-should-retry"] == "false"
    for headers in ({"authorization": secret}, {"authorization": f"Basic {secret}"}, {"x-api-key": secret}, {"api-key": secret}):
        assert keyed.gateway.http.post(CHAT, json=chat(), headers=headers).status_code == 401
    twice = [("authorization", f"Bearer {secret}"), ("authorization", "Bearer rs-other")]
    assert keyed.gateway.http.post(CHAT, json=chat(), headers=twice).status_code == 401
    assert keyed.gateway.http.post(CHAT + f"?api_key={secret}", json=chat()).status_code == 401


def test_nobody_makes_the_gateway_read_a_body_without_a_key(keyed: Keyed) -> None:
    assert keyed.gateway.http.post(CHAT, content=b"{not json", headers=bearer("rs-wrong")).status_code == 401


def test_a_revoked_key_opens_nothing_within_a_second(keyed: Keyed) -> None:
    ident, secret = keyed.make("mallory")
    assert keyed.ask(secret).status_code == 200
    keyed.store.revoke(ident, "test")
    started = time.monotonic()
    until(lambda: keyed.ask(secret).status_code != 200, "revoked", 1.5)
    assert time.monotonic() - started < 1.2


def test_a_key_made_on_the_command_line_opens_within_a_second(keyed: Keyed) -> None:
    _, secret = keyed.store.create(Wish("cli"), "test")
    until(lambda: keyed.ask(secret).status_code == 200, "known", 1.5)


def test_an_expired_key(keyed: Keyed) -> None:
    _, secret = keyed.make("brief", expires_in_s=1)
    assert keyed.ask(secret).status_code == 200
    until(lambda: keyed.ask(secret).status_code != 200, "expired", 2)


def test_a_key_for_one_model(keyed: Keyed) -> None:
    _, secret = keyed.make("scoped", models=["solo"])
    assert keyed.ask(secret).status_code == 200
    there, nowhere = keyed.ask(secret, "other"), keyed.ask(secret, "nowhere")
    assert code(there) == code(nowhere) == (403, "permission_denied")
    assert there.text == nowhere.text, "whether such a model is here is not said"
    assert [model["id"] for model in keyed.get("/v1/models", secret).json()["data"]] == ["solo"]
    missing = keyed.get("/v1/models/other", secret)
    assert code(missing) == (404, "model_not_found")
    assert "other" not in missing.text


def test_requests_per_minute(keyed: Keyed) -> None:
    _, secret = keyed.make("limited", limits={"requests": {"day": 2}})
    assert [keyed.ask(secret).status_code for _ in range(3)] == [200, 200, 429]
    answer = keyed.ask(secret)
    assert answer.json()["error"]["code"] in ("insufficient_quota", "rate_limit_exceeded")
    assert answer.headers["x-ratelimit-limit-requests"] == "2"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(answer.headers["retry-after"]) <= 120


def test_tokens_per_day(keyed: Keyed) -> None:
    _, secret = keyed.make("thrifty", limits={"tokens": {"day": 5}})
    assert keyed.ask(secret, max_tokens=3).status_code == 200, "10 tokens: counted when they are known"
    assert keyed.ask(secret).status_code == 429


def test_requests_under_way_and_every_ending_gives_back(keyed: Keyed) -> None:
    _, secret = keyed.make("single", limits={"concurrency": 1})
    keyed.engines[0].set(itl_s=0.05)
    with keyed.gateway.http.stream("POST", CHAT, json=chat(stream=True, max_tokens=200), headers=bearer(secret)) as stream:
        chunks = stream.iter_raw()
        next(chunks)
        answer = keyed.ask(secret)
        assert code(answer) == (429, "rate_limit_exceeded")
        assert answer.headers["retry-after"] == "1"
    until(lambda: keyed.ask(secret).status_code == 200, "given back when the client left", 3)
    assert keyed.ask(secret, "nowhere").status_code == 404
    assert keyed.ask(secret, temperature=99).status_code == 400
    keyed.engines[0].fault("error_500", times=1)
    assert keyed.ask(secret).status_code >= 500
    keyed.engines[0].reset()
    keyed.gateway.wait_ready()
    assert keyed.ask(secret).status_code == 200


def test_the_same_by_way_of_the_application(tmp_path: Path) -> None:
    keyed = start_keyed(tmp_path, "--plain-path")
    try:
        _, secret = keyed.make("alice", limits={"requests": {"day": 1}}, models=["solo"])
        assert keyed.ask(secret, "other").status_code == 403
        assert [keyed.ask(one).status_code for one in (None, "rs-no", keyed.secrets[0], secret, secret)] == [401, 401, 403, 200, 429]
    finally:
        keyed.stop()


def test_a_new_limit_holds_within_a_second(keyed: Keyed) -> None:
    ident, secret = keyed.make("later")
    assert keyed.ask(secret).status_code == 200
    keyed.store.limit(ident, Limits((Limit("requests", "minute", 0),)), "test")
    until(lambda: keyed.ask(secret).status_code == 429, "limited", 1.5)


def test_many_wrong_keys_and_a_good_one(keyed: Keyed) -> None:
    """From one address: the wrong ones end in 429, the good one never notices."""
    _, secret = keyed.make("good")
    statuses = [keyed.ask(f"rs-guess-{number}").status_code for number in range(200)]
    assert statuses.count(429) >= 200 - 3 * TRIES
    assert set(statuses) <= {401, 429}
    assert keyed.ask(secret).status_code == 200
    refused = keyed.ask("rs-guess")
    assert refused.status_code == 401 or int(refused.headers["retry-after"]) >= 1


def test_guesses_in_many_names_are_of_one_address(keyed: Keyed) -> None:
    """X-Forwarded-For is the client's own claim."""
    for number in range(3 * TRIES):
        headers = {**bearer(f"rs-guess-{number}"), "x-forwarded-for": f"203.0.113.{number}", "forwarded": f"for=203.0.113.{number}"}
        answer = keyed.gateway.http.post(CHAT, json=chat(), headers=headers)
    assert code(answer) == (429, "rate_limit_exceeded")


def test_no_part_of_a_key_is_in_database_log_or_metrics(keyed: Keyed) -> None:
    canaries = [*keyed.secrets, "rs-canary-0123456789-never-a-key"]
    keyed.ask(canaries[-1])
    assert keyed.store.database.file is not None
    places = {path.name: path.read_bytes() for path in keyed.store.database.file.parent.iterdir() if path.is_file()}
    assert keyed.gateway.log.name in places
    places["metrics"] = keyed.gateway.http.get("/metrics").content
    places["usage"] = keyed.get("/v1/usage", keyed.secrets[0]).content
    places["keys"] = keyed.get("/admin/keys", keyed.secrets[0]).content
    for name, data in places.items():
        for secret in canaries:
            assert not any(secret[at : at + 12].encode() in data for at in range(len(secret) - 11)), f"{name} holds a part of a key"


def test_metrics_name_no_key(keyed: Keyed) -> None:
    ident, secret = keyed.make("a-very-special-name")
    keyed.ask(secret)
    text = keyed.gateway.http.get("/metrics").text
    assert ident not in text
    assert "a-very-special-name" not in text
    assert 'rigserve_access_mode{mode="keyed"} 1.0' in text
    assert "rigserve_access_refused_total" in text


# --- faults of the database ---

@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Keyed]:
    keyed = start_keyed(tmp_path)
    yield keyed
    keyed.stop()


@pytest.mark.parametrize("fault", ["corrupt", "missing", "emptied"])
def test_serving_goes_on_with_the_last_known_keys(fragile: Keyed, fault: str) -> None:
    _, secret = fragile.make("alice")
    path = fragile.store.database.file
    assert path is not None
    if fault == "emptied":
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM rigserve_keys")
            connection.execute("UPDATE rigserve_state SET value = value + 1 WHERE name = 'key_version'")
    else:
        for file in path.parent.glob("rigserve.db*"):
            file.unlink()
        if fault == "corrupt":
            path.write_bytes(b"no database " * 1000)
    until(lambda: "rigserve_keys_stale 1.0" in fragile.gateway.http.get("/metrics").text, "the fault is seen", 3)
    assert fragile.ask(secret).status_code == 200
    assert fragile.ask(None).status_code == 401
    assert fragile.ask("rs-wrong").status_code == 401
    assert '"event":"keys_not_read"' in fragile.gateway.log.read_text()


def test_keys_that_were_never_read_let_nobody_in_until_they_are(tmp_path: Path, fake_engine: Any) -> None:
    good = tmp_path / "good"
    good.mkdir()
    database = Database(str(good / "rigserve.db"))
    database.prepare()
    _, secret = KeyStore(database).create(Wish("alice"), "test")
    broken = tmp_path / "rigserve.db"
    broken.write_bytes(b"no database " * 1000)
    gateway = start_gateway(tmp_path, f"--backend=solo={fake_engine(model='solo').url}/v1", "--database", str(broken), "--open-status")
    try:
        gateway.wait_ready()
        for headers in ({}, bearer(secret)):
            answer = gateway.http.post(CHAT, json=chat(), headers=headers)
            assert code(answer) == (503, "keys_unavailable")
        assert gateway.http.get("/healthz").status_code == 200
        shutil.copy(good / "rigserve.db", broken)
        until(lambda: gateway.http.post(CHAT, json=chat(), headers=bearer(secret)).status_code == 200, "read at last", 3)
        assert gateway.http.post(CHAT, json=chat()).status_code == 401
    finally:
        gateway.stop()


# --- no keys ---

@pytest.mark.parametrize(("flags", "status"), [
    ((), 200), (("--published-on", "0.0.0.0"), 401), (("--published-on", "0.0.0.0", "--open"), 200),
])
def test_without_keys_only_this_machine_is_served(tmp_path: Path, fake_engine: Any, flags: tuple[str, ...], status: int) -> None:
    gateway = start_gateway(tmp_path, f"--backend=solo={fake_engine(model='solo').url}/v1", "--database", str(tmp_path / "keys.db"),
                            "--open-status", *flags)  # fmt: skip
    try:
        gateway.wait_ready()
        assert gateway.http.post(CHAT, json=chat()).status_code == status
        assert gateway.http.get("/admin/keys").status_code == 401
        said = gateway.log.read_text()
        assert "there are no keys" in said
        assert ("nobody is served" in said) == (status == 401)
    finally:
        gateway.stop()


@pytest.mark.parametrize(("host", "opened", "mode"), [("127.0.0.1", False, Mode.UNKEYED), ("::1", False, Mode.UNKEYED),
                                                     ("0.0.0.0", False, Mode.NO_KEYS), ("0.0.0.0", True, Mode.UNKEYED)])
def test_no_keys_beyond_loopback(host: str, opened: bool, mode: Mode) -> None:
    async def made() -> Mode:
        return Ledger(Settings(host=host, open=opened)).door.mode

    assert asyncio.run(made()) is mode


# --- the door, by itself ---

def key(secret: str, role: Role = Role.USER, **more: Any) -> Key:
    return Key("key_" + secret, secret, "rs-", digest_of(secret.encode()), role, **more)


def test_every_look_compares_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known or unknown: one comparison of whole digests."""
    door, seen = Door(False), []
    door.replace([key("rs-a")], {})
    compare = hmac.compare_digest
    monkeypatch.setattr(door_module.hmac, "compare_digest", lambda a, b: seen.append((len(a), len(b))) or compare(a, b))
    assert door.plain(b"Bearer rs-a", "m") is not None
    assert door.plain(b"Bearer rs-b", "m") is None
    assert seen == [(32, 32), (32, 32)]


def test_modes() -> None:
    closed = Door(True)
    assert closed.plain(b"", "m") is None
    with pytest.raises(KeysUnavailable):
        closed.enter([], "1.2.3.4")
    closed.replace([], {})
    assert closed.plain(b"", "m") is closed.enter([], "1.2.3.4") is closed.anyone
    closed.replace([key("rs-a")], {})
    assert closed.mode is Mode.KEYED
    assert closed.plain(b"", "m") is None
    assert not closed.replace([], {}), "keys never become none again"
    assert closed.mode is Mode.KEYED
    shut = Door(False)
    shut.replace([], {})
    with pytest.raises(InvalidApiKey, match="no keys yet"):
        shut.enter([], "1.2.3.4")
    shut.replace([key("rs-a", revoked_at=1.0)], {})
    assert shut.mode is Mode.KEYED, "a gateway whose keys are all revoked is no open one"


def test_admin_keys_never_infer_and_models_are_kept_apart() -> None:
    door = Door(False)
    door.replace([key("rs-admin", Role.ADMIN), key("rs-m", models=frozenset(("m",)))], {})
    assert door.plain(b"Bearer rs-admin", "m") is None
    assert door.plain(b"Bearer rs-m", "m") is not None
    assert door.plain(b"bearer   rs-m  ", "n") is None
    caller = door.enter([b"Bearer rs-m"], "1.2.3.4")
    door.use(caller, "alias-of-m", "m")
    with pytest.raises(PermissionDenied):
        door.use(caller, "n", "n")


def test_what_is_counted_survives_a_new_look() -> None:
    door, one = Door(False), key("rs-a", limits=Limits((Limit("requests", "day", 1),)))
    door.replace([one], {})
    door.take(door.enter([b"Bearer rs-a"], "a"))
    door.replace([one], {})
    with pytest.raises(RateLimited):
        door.take(door.enter([b"Bearer rs-a"], "a"))


def test_limit_errors() -> None:
    soon = limit_error(Over("requests", "minute", 60, 60, 12.0))
    assert (soon.code, soon.headers()) == ("rate_limit_exceeded", {
        "retry-after": "12", "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12s",
    })  # fmt: skip
    late = limit_error(Over("tokens", "day", 100, 150, 4000.0))
    assert isinstance(late, QuotaExceeded)
    assert late.headers()["x-should-retry"] == "false"
    assert late.headers()["x-ratelimit-remaining-tokens"] == "0"


def test_throttle() -> None:
    throttle = Throttle()
    waits = [throttle.failed("1.2.3.4", 0.0) for _ in range(TRIES + 1)]
    assert waits == [None] * TRIES + [3.0], "the worked number"
    assert throttle.failed("1.2.3.5", 0.0) is None, "another address"
    assert throttle.failed("1.2.3.4", 3.01) is None
    for number in range(TRIES):
        throttle.failed(f"2001:db8::{number:x}", 0.0)
    assert throttle.failed("2001:db8::ffff:1", 0.0) is not None, "a /64 is one address"
    for number in range(MAX_ADDRESSES + 10):
        throttle.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(throttle._buckets) == MAX_ADDRESSES
