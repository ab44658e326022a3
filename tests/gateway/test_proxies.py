"""X-Forwarded-For and -Proto are a claim of the client, unless a proxy that was named sent them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.gateway.__main__ import parse_arguments
from services.gateway.core import Gateway, Inputs
from services.gateway.server import make_server

BACKEND = ("--backend", "solo=http://127.0.0.1:9")
FORWARDED = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")]


def seen_by_the_app(*flags: str, of: str = "127.0.0.1", headers: list[tuple[bytes, bytes]] = FORWARDED) -> tuple[str, str]:
    """The client's address and the scheme, as the application gets them of a connection from `of`."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def ask() -> None:
        config = make_server(app, Gateway(Inputs(parse_arguments([*BACKEND, *flags]), None, None))).config
        config.load()
        scope: Any = {"type": "http", "client": (of, 5), "scheme": "http", "headers": headers}
        await config.loaded_app(scope, None, None)

    asyncio.run(ask())
    return seen[0]["client"][0], seen[0]["scheme"]


def test_nobody_is_believed_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not this machine either, which uvicorn believes unless it is told otherwise, nor whom a variable of uvicorn's names."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert seen_by_the_app() == ("127.0.0.1", "http")
    assert seen_by_the_app("--trusted-proxies", "10.0.0.1") == ("127.0.0.1", "http")


@pytest.mark.parametrize("named", ["127.0.0.1", "10.0.0.1, 127.0.0.0/8", "::1,127.0.0.1"])
def test_a_named_proxy_is_believed(named: str) -> None:
    assert seen_by_the_app("--trusted-proxies", named) == ("203.0.113.9", "https")


def test_what_stands_before_the_last_unknown_address_is_the_clients_own_claim() -> None:
    claims = [(b"x-forwarded-for", b"8.8.8.8, 203.0.113.9, 127.0.0.1")]
    assert seen_by_the_app("--trusted-proxies", "127.0.0.1", headers=claims) == ("203.0.113.9", "http")


@pytest.mark.parametrize("named", ["*", "0.0.0.0/0", "::/0", "localhost", "10.0.0.1/8", "", "10.0.0.1,,"])
def test_proxies_that_name_everybody_or_nobody(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*BACKEND, "--trusted-proxies", named])
    assert "--trusted-proxies" in capsys.readouterr().err
