"""The short way for plain requests: from uvicorn's parser callbacks straight to a connection of the engine; no task, no ASGI scope.

uvicorn asks its `cycle` whether an answer is complete, tells it that the client left, and queues pipelined requests behind it. An Exchange
of hot_exchange.py stands in that place, so keep-alive, pipelining and graceful shutdown stay uvicorn's. Whatever is unusual about a request
goes to the application as if this file did not exist; the decisions (admission, scheduler, stream) are the same code on both ways.
tests/gateway/test_hot_uvicorn.py fails when the insides of uvicorn that this leans on move.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from services.gateway.border import REQUEST_ID, allowed_hosts, host_name
from services.gateway.core import Gateway
from services.gateway.hot_exchange import HotExchange
from services.gateway.server import EdgeProtocol
from services.gateway.text_request import Route

ROUTES: Mapping[bytes, Route] = {b"/v1/chat/completions": "/v1/chat/completions", b"/v1/completions": "/v1/completions"}
UNUSUAL = {b"expect", b"transfer-encoding", b"content-encoding", b"origin", b"upgrade"}


def hot_protocol(of_gateway: Gateway) -> type[EdgeProtocol]:
    """The protocol class of one gateway: what uvicorn's `http` option takes."""

    class BoundProtocol(HotProtocol):
        gateway = of_gateway
        hosts = allowed_hosts(of_gateway.settings.host)

    return BoundProtocol


class HotProtocol(EdgeProtocol):
    """One client connection."""

    gateway: ClassVar[Gateway]
    hosts: ClassVar[frozenset[str] | None]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._parts: list[bytes] | None = None  # the body of a request that may go the short way, while it comes
        self._hot: HotExchange | None = None

    # --- uvicorn's parser callbacks ---

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._parts is not None:  # the body did not come with its head: the application has the deadlines for that
            self._to_application_unfinished()

    def on_headers_complete(self) -> None:
        if self._is_plain():
            self._parts = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._parts is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """1. Not ours. 2. The short way takes it. 3. The application does."""
        if self._parts is None:  # 1
            super().on_message_complete()
            return
        body, self._parts = b"".join(self._parts), None
        given = next((value for name, value in self.headers if name == b"x-request-id"), b"")
        engine_id = uuid.uuid4().hex
        shown = given.decode() if REQUEST_ID.fullmatch(given) else engine_id
        hot = HotExchange(self, self.gateway, ROUTES[self.url], body, shown, engine_id)
        if hot.start():  # 2
            self._hot = hot
            self.cycle = cast(RequestResponseCycle, hot)
        else:  # 3
            self.to_application(body, None, frozenset())

    def _is_plain(self) -> bool:
        """A POST on a hot path over HTTP/1.1 that asks for nothing special, with nothing before it on this connection still unanswered."""
        parser = self.parser
        if self.url not in ROUTES or parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return False
        if (self.cycle is not None and not self.cycle.response_complete) or not parser.should_keep_alive():
            return False
        length, hosts = -1, []
        for name, value in self.headers:
            if name in UNUSUAL:
                return False
            if name == b"content-length" and value.isdigit():
                length = int(value)
            elif name == b"host":
                hosts.append(value)
        if len(hosts) != 1 or not 0 <= length <= self.gateway.settings.limits.body_bytes or self.gateway.draining:
            return False
        return self.hosts is None or host_name(hosts[0]) in self.hosts

    # --- to the application ---

    def _to_application_unfinished(self) -> None:
        parts, self._parts = self._parts or [], None
        super().on_headers_complete()
        if parts:
            super().on_body(b"".join(parts))

    def to_application(self, body: bytes, hot: HotExchange | None, tried: frozenset[str]) -> None:
        """The whole request to the application. `hot`: the short way has tried it on the backends `tried`, and nothing was sent."""
        self.scope.update({
            "method": "POST", "path": self.url.decode("ascii"), "raw_path": self.url, "query_string": b"",
        })  # fmt: skip
        if hot is not None:
            self.scope["state"] = {**self.scope.get("state", {}), "tried": tried}
        cycle = RequestResponseCycle(
            scope=self.scope, transport=self.transport, flow=self.flow, logger=self.logger, access_logger=self.access_logger,
            access_log=self.access_log, default_headers=self.server_state.default_headers, message_event=asyncio.Event(),
            expect_100_continue=False, keep_alive=hot.keep_alive if hot is not None else True, on_response=self.on_response_complete,
        )  # fmt: skip
        cycle.body, cycle.more_body = bytearray(body), False
        cycle.message_event.set()
        if hot is None or self.cycle is cast(RequestResponseCycle, hot):
            self.cycle = cycle
        self._hot = None
        self._start_asgi_task(cycle, self.app)

    def answered(self, hot: HotExchange) -> None:
        """Its answer is complete, or nothing more of it will come."""
        if self._hot is hot:
            self._hot = None
        if not hot.keep_alive and not self.transport.is_closing():
            self.transport.close()
        self.on_response_complete()

    # --- asyncio's callbacks ---

    def connection_lost(self, exc: Exception | None) -> None:
        hot, self._hot = self._hot, None
        if hot is not None:
            hot.client_gone()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        if self._hot is not None:
            self._hot.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._hot is not None:
            self._hot.resume()


