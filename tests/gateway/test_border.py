"""Requests that a web page of another site sends, and bodies that are compressed: refused before anything of them is read."""

from __future__ import annotations

import gzip
import socket
import uuid
from typing import Any

import anyio
import orjson
import pytest

from services.gateway.border import Border, allowed_hosts, origin_name
from tests.gateway.conftest import Loose
from tests.gateway.rig import CHAT, GatewayProcess, chat

ELSEWHERE = ["null", "http://evil.example", "https://localhost.evil.example", "http://127.0.0.1.evil.example:8000", "http://user@evil", "",
             "evil", "http://", "file://", "http://[::2]:1", "http://localhost, http://evil"]


@pytest.mark.parametrize(("header", "name"), [
    (b"http://[::1]:3000", "[::1]"), (b"https://LOCALHOST", "localhost"), (b"http://127.0.0.1:8000", "127.0.0.1"), (b"null", None),
    (b"", None), (b"file://", None), (b"http://localhost@evil", "localhost@evil"),
])
def test_origin_name(header: bytes, name: str | None) -> None:
    assert origin_name(header) == name


@pytest.mark.parametrize("origin", ELSEWHERE)
def test_a_page_of_another_site_is_refused(loose: Loose, origin: str) -> None:
    for path in (CHAT, "/v1/completions", "/v1/images/generations", "/v1/fit"):
        answer = loose.gateway.post(path, chat(max_tokens=1), headers={"origin": origin, "content-type": "text/plain"})
        assert answer.status_code == 403, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == ("permission_denied", "permission_error", "origin")
        assert "access-control-allow-origin" not in answer.headers
    assert loose.solo.state()["seen"] == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "BREW"])
def test_every_unsafe_verb(gateway: GatewayProcess, method: str) -> None:
    answer = gateway.http.request(method, "/v1/models", headers={"origin": "http://evil.example"})
    assert answer.status_code == (400 if method == "BREW" else 403), "httptools knows no BREW"


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://LocalHost", "http://[::1]:8000"])
def test_own_pages_and_programs_are_served(gateway: GatewayProcess, origin: str) -> None:
    assert gateway.post(CHAT, chat(max_tokens=1), headers={"origin": origin}).status_code == 200
    assert gateway.post(CHAT, chat(max_tokens=1)).status_code == 200
    assert gateway.http.get("/v1/models", headers={"origin": "http://evil.example"}).status_code == 200, "reading is the browser's to guard"


def test_the_refusal_does_not_wait_for_the_body(gateway: GatewayProcess) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=3) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\norigin: null\r\ncontent-length: 9\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 403 ")


def statuses(bound: str, *headers: tuple[bytes, bytes]) -> int:
    """The status of one POST at a border bound to that address."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers), "state": {}, "http_version": "1.1"}
    anyio.run(Border(app, allowed_hosts(bound)), scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize(("origin", "status"), [
    (b"http://rig.lan:3000", 200), (b"http://evil.example", 403), (b"null", 403), (b"http://localhost", 403),
])
def test_a_gateway_open_to_a_network_serves_pages_of_the_host_that_was_asked(origin: bytes, status: int) -> None:
    assert statuses("0.0.0.0", (b"host", b"rig.lan:8000"), (b"origin", origin)) == status
    assert statuses("0.0.0.0", (b"host", b"rig.lan:8000")) == 200


def test_of_two_origins_both_count() -> None:
    assert statuses("127.0.0.1", (b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://evil")) == 403


@pytest.mark.parametrize("encoding", ["gzip", "br", "x", "identity, gzip", "GZIP"])
def test_a_compressed_body_is_refused(loose: Loose, encoding: str) -> None:
    for path in (CHAT, "/v1/completions", "/v1/images/generations", "/v1/fit"):
        answer = loose.gateway.post(path, gzip.compress(orjson.dumps(chat())), headers={"content-encoding": encoding})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "content-encoding"
        assert "Content-Encoding" in answer.json()["error"]["message"]
    assert loose.solo.state()["seen"] == []


def test_identity_is_no_encoding(gateway: GatewayProcess) -> None:
    for encoding in ("identity", "Identity", ""):
        assert gateway.post(CHAT, chat(max_tokens=1), headers={"content-encoding": encoding}).status_code == 200


def test_the_refusal_has_the_request_id(gateway: GatewayProcess) -> None:
    ident = uuid.uuid4().hex
    answer = gateway.post(CHAT, chat(), headers={"origin": "null", "x-request-id": ident})
    assert answer.headers["x-request-id"] == ident
