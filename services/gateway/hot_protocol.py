"""The short way for plain requests: from the client's socket straight to a connection of the engine; no parser, no task, no ASGI scope.

While a plain request is read and answered here, uvicorn's parser knows nothing of it: for uvicorn the connection is between two requests.
Whatever else comes goes to uvicorn, and so to the application, as if this file did not exist; so does a plain request that the short way
can't take, byte for byte. The decisions (admission, scheduler, stream) are the same code on both ways.
tests/gateway/test_hot_uvicorn.py fails when the insides of uvicorn that this leans on move.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from services.gateway.border import allowed_hosts
from services.gateway.core import Gateway
from services.gateway.edge import EdgeProtocol
from services.gateway.hot_exchange import HotExchange
from services.gateway.hot_head import HeadBook
from services.gateway.hot_heads import AnswerHeads
from services.gateway.server import edge_of

WHOLE_S = 0.2  # many clients send head and body in two writes; what is not whole by then is the application's, which has the deadlines
MAX_HOT_BODY_BYTES = 1024 * 1024
MAX_LATER_BYTES = 64 * 1024


def hot_protocol(of_gateway: Gateway) -> type[EdgeProtocol]:
    """The protocol class of one gateway: what uvicorn's `http` option takes."""

    class BoundProtocol(HotProtocol):
        gateway = of_gateway
        edge = edge_of(of_gateway)
        heads = HeadBook(
            allowed_hosts(of_gateway.settings.host), min(MAX_HOT_BODY_BYTES, of_gateway.settings.limits.body_bytes)
        )  # fmt: skip
        answer_heads = AnswerHeads()

    return BoundProtocol


class HotProtocol(EdgeProtocol):
    """One client connection.

    `_hot`: the plain request that is being answered. `_later`: what the client sent meanwhile. `_begun`: a plain request that is not whole
    yet. `_inside`: uvicorn's parser stands inside a request. `_tried`: backends that the short way has asked in vain, for the application.
    """

    gateway: ClassVar[Gateway]
    heads: ClassVar[HeadBook]
    answer_heads: ClassVar[AnswerHeads]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._hot: HotExchange | None = None
        self._later = b""
        self._begun: list[bytes] = []
        self._lacking = 0
        self._patience: asyncio.TimerHandle | None = None
        self._inside = False
        self._tried: frozenset[str] = frozenset()
        self._idle_since_s = 0.0

    def data_received(self, data: bytes) -> None:
        """1. A plain request is being answered: this waits until it is. 2. One is being read: this is more of it. 3. uvicorn is inside a
        request or has one to answer: uvicorn's. 4. A plain request begins here. 5. uvicorn's."""
        if self._hot is not None:  # 1
            self._keep_for_later(data)
            return
        if self._begun:  # 2
            self._begun.append(data)
            self._lacking -= len(data)
            if self._lacking > 0:
                return
            data = self._take_begun()
        cycle = self.cycle
        if not self._inside and (cycle is None or cycle.response_complete):  # 3
            request = self.heads.read(data)
            if request is not None:  # 4
                if len(data) < request.end:
                    self._begin(data, request.end - len(data))
                    return
                hot = HotExchange(self, self.gateway, request, data)
                if hot.start():
                    self._hot, self._later = hot, data[request.end :]
                    self._due_s = 0.0  # a request has come: the edge waits for nothing
                    return
        super().data_received(data)  # 5

    def _begin(self, data: bytes, lacking: int) -> None:
        self._unset_keepalive_if_required()
        self._begun, self._lacking = [data], lacking
        self._patience = self.loop.call_later(WHOLE_S, self._to_application_unfinished)

    def _take_begun(self) -> bytes:
        """What was read of the plain request; it is no longer waited for."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        data, self._begun = b"".join(self._begun), []
        return data

    def _to_application_unfinished(self) -> None:
        super().data_received(self._take_begun())

    def _keep_for_later(self, data: bytes) -> None:
        self._later += data
        if len(self._later) > MAX_LATER_BYTES:
            self.flow.pause_reading()

    # --- from the exchange ---

    def to_application(self, request: bytes, keep_alive: bool, tried: frozenset[str]) -> None:
        """The whole request to the application: the short way has tried it on the backends `tried`, and nothing was sent."""
        self._hot, self._tried = None, tried
        later, self._later = self._later, b""
        self.flow.resume_reading()
        super().data_received(request)
        if not keep_alive:
            self.cycle.keep_alive = False
        if later:
            super().data_received(later)

    def answered(self, keep_alive: bool) -> None:
        """As uvicorn's on_response_complete, but with one keep-alive timer for many requests, which looks when the last one ended."""
        self._hot = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not keep_alive:
            self.transport.close()
            return
        self._idle_since_s = time.monotonic()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if self._later:
            later, self._later = self._later, b""
            self.flow.resume_reading()
            self.data_received(later)

    # --- uvicorn's and asyncio's callbacks ---

    def _answering(self) -> bool:
        return self._hot is not None or super()._answering()

    def on_message_begin(self) -> None:
        self._inside = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._tried:
            self.scope["state"]["tried"], self._tried = self._tried, frozenset()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._inside = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._idle_since_s = 0.0  # uvicorn sets a timer of its own for this one
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """1. An answer is under way: its end sets the timer anew. 2. Not idle for long enough yet. 3. Closed."""
        if self._hot is not None:  # 1
            self.timeout_keep_alive_task = None
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - time.monotonic() if self._idle_since_s else 0.0
        if left_s > 0.01:  # 2
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:  # 3
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self._hot is not None:
            self._hot.keep_alive = False
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        hot, self._hot = self._hot, None
        self._take_begun()
        if hot is not None:
            hot.client_gone()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        if self._hot is not None:
            self._hot.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._hot is not None:
            self._hot.resume()
