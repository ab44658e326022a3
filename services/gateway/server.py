"""uvicorn as the gateway runs it: its own drain, its own edge, as many connections as there are file descriptors for."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from services.gateway.core import Gateway
from services.gateway.edge import Edge, EdgeProtocol, connection_limit
from services.gateway.logs import log_event
from services.gateway.reload import Change, Read, Reloader

CLOSE_S = 2


class GatewayServer(uvicorn.Server):
    """On SIGTERM or SIGINT the gateway drains first: new requests get 503, running ones may end, then the server closes.

    uvicorn alone would wait for ever for an open stream, or cut it without a word. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, read: Read | None = None) -> None:
        super().__init__(config)
        self.gateway = gateway
        self._reloader = Reloader(gateway, read) if read is not None else None
        self._reloads: set[asyncio.Task[Change | None]] = set()
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.handle_exit, number, None)
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            print(f"rigserve gateway on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain is not None or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._drain = self._loop.create_task(self._drain_and_exit())

    def reload(self) -> None:
        """SIGHUP: plan and endpoints are read again."""
        if self._reloader is not None and self._drain is None and self._loop is not None:
            task = self._loop.create_task(self._reloader.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def _drain_and_exit(self) -> None:
        await self.gateway.drain(self.gateway.settings.drain_grace_s)
        self.should_exit = True


class _Quiet(logging.Filter):
    """A stream that failed is ended by not ending it; uvicorn need not report that as a fault of the app. What is no HTTP is counted
    (rigserve_edge_refusals): a line for each would let any scanner fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "without completing response" not in message and not message.startswith("Invalid HTTP request")


def listen(host: str, port: int) -> socket.socket:
    """The gateway's socket, bound (port 0: any free one). Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def edge_of(gateway: Gateway) -> Edge:
    """The edge that the gateway's settings ask for, as far as there are file descriptors. Takes as many of them as the system gives."""
    wanted = gateway.settings.limits.connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = min(max(soft, 2 * wanted + 256), hard) if hard != resource.RLIM_INFINITY else max(soft, 2 * wanted + 256)
    if open_files > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, hard))
    limit = connection_limit(wanted, open_files)
    if limit < wanted:
        log_event("few_connections", {"wanted": wanted, "limit": limit, "open_files": open_files}, logging.WARNING)
    return Edge(limit, gateway.settings.deadlines.head_s, lambda code: gateway.metrics.edge.labels(code).inc())


def plain_protocol(gateway: Gateway) -> type[EdgeProtocol]:
    """The protocol class of a gateway without the short way."""

    class BoundProtocol(EdgeProtocol):
        edge = edge_of(gateway)

    return BoundProtocol


def make_server(
    app: ASGIApp, gateway: Gateway, protocol: type[EdgeProtocol] = EdgeProtocol, read: Read | None = None
) -> GatewayServer:
    """`read` gives the configuration anew on SIGHUP; None: that signal does nothing."""
    logging.getLogger("uvicorn.error").addFilter(_Quiet())
    # uvicorn would believe the X-Forwarded-For of every client on this machine: anyone here could guess keys in anyone's name.
    proxies = list(gateway.settings.trusted_proxies)
    config = uvicorn.Config(
        app, loop="uvloop", http=protocol, ws="none", access_log=False, log_config=None,
        lifespan="on", server_header=False, timeout_graceful_shutdown=CLOSE_S, timeout_keep_alive=30, backlog=2048,
        proxy_headers=bool(proxies), forwarded_allow_ips=proxies,
    )
    return GatewayServer(config, gateway, read)
