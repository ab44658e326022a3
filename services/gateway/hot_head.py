"""Is this the head of a plain request? Read without a parser where the same head was seen before, as one client sends it over and over.

Pure: bytes in, a verdict out. What a head says depends on nothing but its bytes, so a verdict may be kept; only the digits of its
content-length change from request to request, and they are left out of what it is kept under.
"""

from __future__ import annotations

from typing import NamedTuple

import httptools

from services.gateway.border import REQUEST_ID, host_name
from services.gateway.text_request import Route

ROUTES: dict[bytes, Route] = {b"/v1/chat/completions": "/v1/chat/completions", b"/v1/completions": "/v1/completions"}
BEGINNING = b"POST /v1/c"
UNUSUAL = frozenset((b"expect", b"transfer-encoding", b"content-encoding", b"origin", b"upgrade", b"te", b"trailer", b"idempotency-key"))
LENGTH_NAMES = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
MAX_HEAD_BYTES = 8192
MAX_KEPT = 256


class PlainHead(NamedTuple):
    """`given_id`: the client's own x-request-id when it is a fit one, else "". `authorization`: that header's value, "" without one."""

    route: Route
    given_id: str
    authorization: bytes


class PlainRequest(NamedTuple):
    """A plain head, where its body begins and ends in what was read."""

    head: PlainHead
    start: int
    end: int


class HeadBook:
    """`hosts`: the names that the Host header may hold; None: any (as Border). `body_bytes`: longer bodies are not plain."""

    def __init__(self, hosts: frozenset[str] | None, body_bytes: int) -> None:
        self._hosts = hosts
        self._body_bytes = body_bytes
        self._kept: dict[bytes, PlainHead | None] = {}

    def read(self, data: bytes) -> PlainRequest | None:
        """The plain request whose whole head `data` begins with; None for everything else: uvicorn's parser has the last word on it."""
        if not data.startswith(BEGINNING):
            return None
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        name = LENGTH_NAMES[0]
        at = data.find(name, 0, end)
        if at < 0:
            name = LENGTH_NAMES[1]
            at = data.find(name, 0, end)
        if at < 0 or end < 0:
            return None
        at += len(name)
        line_end = data.find(b"\r\n", at, end + 2)
        digits = data[at:line_end]
        if not digits.isdigit() or len(digits) > 9:
            return None
        length = int(digits)
        if length > self._body_bytes:
            return None
        key = data[:at] + data[line_end:end]
        if key in self._kept:
            head = self._kept[key]
        else:
            head = self._parse(data[: end + 4], length)
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[key] = head
        return None if head is None else PlainRequest(head, end + 4, end + 4 + length)

    def _parse(self, head: bytes, length: int) -> PlainHead | None:
        """A POST on a hot path over HTTP/1.1 that asks for nothing special, to a host of ours, with the one length that was found."""
        seen = _Headers()
        parser = httptools.HttpRequestParser(seen)
        try:
            parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        if not seen.complete or seen.url not in ROUTES or parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        lengths, hosts = seen.all(b"content-length"), seen.all(b"host")
        if not parser.should_keep_alive() or [int(value) for value in lengths if value.isdigit()] != [length] or len(lengths) != 1:
            return None
        if len(hosts) != 1 or any(name in UNUSUAL for name, _ in seen.headers):
            return None
        if self._hosts is not None and host_name(hosts[0]) not in self._hosts:
            return None
        given, keys = (seen.all(b"x-request-id") or [b""])[-1], seen.all(b"authorization") or [b""]
        if len(keys) != 1:
            return None
        return PlainHead(ROUTES[seen.url], given.decode() if REQUEST_ID.fullmatch(given) else "", keys[0])


class _Headers:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True

    def all(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]
