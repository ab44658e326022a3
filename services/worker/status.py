"""The worker's own small port, for whoever has the placement's token: GET /status, POST /restart, /load, /unload and /check
(services/wire/worker.py).

GET /readyz needs none: it says one word, the state, to a container's or orchestrator's health check, which has no token to show.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import asdict
from typing import Any, Protocol

import uvicorn

from services.wire.errors import ApiError, InvalidApiKey, MethodNotAllowed, RouteNotFound
from services.wire.worker import WorkerState, WorkerStatus

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
METHODS = {"/status": "GET", "/restart": "POST", "/load": "POST", "/unload": "POST", "/check": "POST"}


class Engine(Protocol):
    """What the port needs of the driver."""

    def status(self) -> WorkerStatus: ...
    def restart(self) -> None: ...
    def load(self) -> None: ...
    def unload(self) -> None: ...
    def check(self) -> None: ...


class StatusApp:
    """Plain ASGI: a framework would double the worker's memory. Errors have the OpenAI shape."""

    def __init__(self, engine: Engine, token: str) -> None:
        self._engine = engine
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, body = self._answer(scope)
            headers: dict[str, str] = {}
        except ApiError as error:
            status, body, headers = error.status, error.body(), error.headers()
        data = json.dumps(body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": data if scope["method"] != "HEAD" else b""})

    def _answer(self, scope: Message) -> tuple[int, Any]:
        if scope["path"] == "/readyz" and scope["method"] in ("GET", "HEAD"):
            state = self._engine.status().state
            return 200 if state in (WorkerState.READY, WorkerState.UNLOADED) else 503, {"state": state.value}
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._authorization):
            raise InvalidApiKey("this port needs the placement's token: Authorization: Bearer <token>")
        allowed = METHODS.get(scope["path"])
        if allowed is None:
            raise RouteNotFound("there is no such route here; a worker answers GET /status, POST /restart, /load, /unload, /check")
        if scope["method"] != allowed:
            raise MethodNotAllowed(f"{scope['path']} answers {allowed}")
        engine = self._engine
        orders = {"/restart": engine.restart, "/load": engine.load, "/unload": engine.unload, "/check": engine.check}
        if scope["path"] in orders:
            orders[scope["path"]]()
            return 202, {"state": engine.status().state.value}
        return 200, asdict(engine.status())


class StatusServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the worker stops the engine first, this port last."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def status_server(app: StatusApp) -> StatusServer:
    return StatusServer(uvicorn.Config(
        app, loop="none", http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, timeout_graceful_shutdown=1, timeout_keep_alive=30,
    ))


def listen(host: str, port: int) -> socket.socket:
    """The listening socket, bound before anything is started. Raises OSError when the port can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.set_inheritable(False)
    except OSError:
        sock.close()
        raise
    return sock
