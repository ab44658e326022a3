"""The application of a gateway in this process, over fake engines: asked by ASGI, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx

from services.gateway.__main__ import parse_arguments
from services.gateway.app import make_app
from services.gateway.core import Gateway, Inputs
from services.keys.database import Database
from services.keys.key import Role
from services.keys.store import KeyStore
from services.keys.wish import Wish
from services.sizing.planfile import load_plan
from tests.gateway.keyed import bearer
from tests.gateway.rig import catalogue, start_engines, until

T = TypeVar("T")


class InProcess:
    """`keys`: what an Authorization header may hold, by who says it. `key_id`: of one more key, to be changed and revoked."""

    def __init__(self, folder: Path) -> None:
        flags, self.engines = start_engines(folder)
        database = Database(str(folder / "rigserve.db"))
        database.prepare()
        store = KeyStore(database)
        self.key_id = store.create(Wish("third"), "test")[0].id
        made = {role: store.create(Wish(role, role), "test")[1] for role in Role}
        self.keys: dict[str, str | None] = {"user": made[Role.USER], "admin": made[Role.ADMIN], "wrong": "rs-wrong", "none": None}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        settings = parse_arguments([*flags, "--database", str(folder / "rigserve.db"), "--poll-s", "0.1"])
        self.run(self._start(Inputs(settings, load_plan(folder / "plan.yaml"), catalogue())))
        until(lambda: self.ask("GET", "/readyz").status_code == 200 and all(
            model["state"] == "ready" for model in self.ask("GET", "/v1/models", "user").json()["data"]), "ready", 10)  # fmt: skip

    async def _start(self, inputs: Inputs) -> None:
        self.gateway = Gateway(inputs)
        self._app = app = make_app(self.gateway)
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self._told: asyncio.Queue[Any] = asyncio.Queue()
        self._lifespan = asyncio.create_task(app({"type": "lifespan", "app": app}, self._said.get, self._told.put))  # type: ignore[arg-type]
        await self._said.put({"type": "lifespan.startup"})
        assert (await self._told.get())["type"] == "lifespan.startup.complete"

        async def as_uvicorn(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": {}}, receive, send)

        transport = httpx.ASGITransport(as_uvicorn, client=("192.0.2.1", 5))
        self._http = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=20)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def ask(self, method: str, path: str, caller: str = "none", headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        return self.run(self._http.request(method, path, headers={**bearer(self.keys[caller]), **(headers or {})}, **more))

    async def _stop(self) -> None:
        await self._http.aclose()
        await self._said.put({"type": "lifespan.shutdown"})
        await self._lifespan

    def stop(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        for engine in self.engines.values():
            engine.stop()
