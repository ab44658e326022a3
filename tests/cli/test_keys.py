"""`rigserve keys` on a database of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.gateway import database_flags
from services.cli.main import main


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("DATABASE_URL", raising=False)


def rigserve(*argv: str) -> Result:
    return CliRunner().invoke(main, ["keys", *argv])


def test_the_life_of_a_key() -> None:
    assert rigserve("list").output == "no keys yet; rigserve keys create NAME makes one\n"
    made = rigserve("create", "alice", "--limit", "requests=60/minute", "--model", "m", "--concurrency", "2", "--expires", "30d")
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert secret.startswith("rs-")
    assert "can't be shown again" in made.stderr
    listed = rigserve("list").output
    assert secret not in listed
    assert secret[:9] + "..." in listed
    assert "requests=60/minute concurrency=2" in listed
    assert "may now use: tokens=5/day" in rigserve("limit", "alice", "--limit", "tokens=5/day").output
    assert rigserve("revoke", secret[:9]).exit_code == 0
    (key,) = json.loads(rigserve("list", "--json").output)
    assert (key["state"], key["models"], key["limits"]) == ("revoked", ["m"], {"tokens": {"day": 5}})


def test_json_holds_the_secret_once() -> None:
    made = json.loads(rigserve("create", "ops", "--role", "admin", "--json").output)
    assert made["role"] == "admin"
    assert made["key"].startswith(made["prefix"])
    assert made["key"] not in rigserve("list", "--json").output


@pytest.mark.parametrize(("argv", "exit_code", "said"), [
    (("create", ""), 2, "name must be"), (("create", "a", "--limit", "much"), 2, "UNIT=N/WINDOW"),
    (("create", "a", "--expires", "1y"), 2, "30d"),
    (("create", "a", "--role", "root"), 2, "admin"), (("revoke", "nobody"), 1, "no such key"), (("limit", "nobody"), 1, "no such key"),
    (("list", "--database", "mysql://h/d"), 2, "SQLite or Postgres"), (("list", "--database", "/proc/none/x.db"), 1, "can't be made"),
    (("list", "--database", "postgresql://u:secret@h/d"), 2, "password"),
])
def test_what_can_not_be_done_is_a_sentence(argv: tuple[str, ...], exit_code: int, said: str) -> None:
    done = rigserve(*argv)
    assert done.exit_code == exit_code, done.output
    assert said in done.output
    assert "Traceback" not in done.output
    assert "secret" not in done.output


def test_which_database_a_gateway_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database_flags("x.db") == ("--database", "x.db")
    assert database_flags(None) == ("--database", str(tmp_path / "state/rigserve/rigserve.db"))
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    assert database_flags(None) == (), "no keys then, rather than no gateway"
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/d")
    assert database_flags(None) == (), "inherited: a password is not for a command line"
