"""The process border: a pure ASGI wrapper around the app. Host and Origin checks, request id, and the last word when something unforeseen
breaks."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Collection

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.logs import log_event
from services.wire.errors import ApiError, InternalError, InvalidValue, PermissionDenied

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}", re.ASCII)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110, 9.2.1


def allowed_hosts(bound: str) -> frozenset[str] | None:
    """Names that the Host header may hold when bound to loopback, so that no web page can reach us under a name of its own (DNS
    rebinding); None: any, the operator has opened the gateway to a network."""
    if bound not in ("127.0.0.1", "localhost", "::1"):
        return None
    return frozenset((*LOOPBACK_NAMES, f"[{bound}]" if ":" in bound else bound))


def host_name(header: bytes) -> str:
    """The name in a Host header, without its port. Worked example: host_name(b"[::1]:8000") == "[::1]"."""
    text = header.decode("latin1").strip().lower()
    return text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]


def origin_name(header: bytes) -> str | None:
    """The host in an Origin header, None for `null` and what is no origin. Worked example: b"http://[::1]:3000" gives "[::1]"."""
    _, mark, rest = header.decode("latin1").strip().partition("://")
    return host_name(rest.encode("latin1")) or None if mark else None


def nothing_waits() -> None:
    """For an application that counts at once."""


class Border:
    """Every request passes it first, and `settle` is called: it finds everything counted that ended before. Not a BaseHTTPMiddleware:
    those keep upstreams alive after the client has left."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, settle: Callable[[], None] = nothing_waits) -> None:
        self._app = app
        self._hosts = hosts
        self._settle = settle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._settle()
        given, hosts, origins = b"", [], []
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
            elif name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
        ours = uuid.uuid4().hex
        shown = given if REQUEST_ID.fullmatch(given) else ours.encode()
        # The engine gets our own id: two requests of one client's id at once would be one to it.
        scope["state"] |= {"request_id": shown.decode(), "engine_request_id": ours}
        started = False

        async def named_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", shown)]
            await send(message)

        try:
            self._check_host(hosts, scope.get("http_version", "1.1"))
            if origins and scope["method"] not in SAFE_METHODS:
                self._check_origin(origins, hosts)
            if scope["method"] == "HEAD":  # as GET; uvicorn, which has the scope as it was, leaves the body out
                scope = {**scope, "method": "GET"}
            await self._app(scope, receive, named_send)
        except ApiError as error:
            await answer(named_send, error)
        except Exception:  # noqa: BLE001 - the border of the process: the unforeseen is logged here, and the client gets a plain 500
            log_event("unforeseen", {"request_id": ours, "path": scope["path"][:200]}, logging.ERROR, with_traceback=True)
            if not started:
                await answer(named_send, InternalError("The gateway failed on this request; its log has the details."))

    def _check_host(self, hosts: list[bytes], version: str) -> None:
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise InvalidValue("The request must have one Host header.", param="host")
        if self._hosts is not None and hosts and host_name(hosts[0]) not in self._hosts:
            raise InvalidValue("The Host header names another host than this gateway's: use localhost or 127.0.0.1.", param="host")

    def _check_origin(self, origins: list[bytes], hosts: list[bytes]) -> None:
        """A browser names the page that a request comes from: another site's page may not spend this rig's time. On a gateway that was
        opened to a network every Host is allowed, so there the page must be of the host that was asked."""
        allowed = self._hosts if self._hosts is not None else {host_name(host) for host in hosts}
        if any(origin_name(origin) not in allowed for origin in origins):
            raise PermissionDenied("This request comes from a web page of another site (its Origin header), which is not served; "
                                   "call the gateway from a program, or from a page of its own host.", param="origin")


async def answer(send: Send, error: ApiError) -> None:
    """Sends an error as a whole answer."""
    body = orjson.dumps(error.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    raw = [(name.encode("latin1"), value.encode("latin1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
