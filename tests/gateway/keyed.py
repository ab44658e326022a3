"""A gateway that asks for keys, over one fake engine: what the tests of keys, usage and admin routes stand on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.keys.database import Database
from services.keys.key import Role
from services.keys.store import KeyStore
from services.keys.wish import Wish
from tests.fakes import process
from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, chat, start_gateway, until


@dataclass
class Keyed:
    """`secrets`: every secret that was ever made here."""

    gateway: GatewayProcess
    engines: list[FakeEngineProcess]
    store: KeyStore
    secrets: list[str]

    def make(self, name: str, **more: Any) -> tuple[str, str]:
        """A key by way of the admin route, in force at once: its id and its secret."""
        made = self.gateway.http.post("/admin/keys", json={"name": name, **more}, headers=bearer(self.secrets[0]))
        assert made.status_code == 201, made.text
        self.secrets.append(made.json()["key"])
        return made.json()["id"], made.json()["key"]

    def get(self, path: str, secret: str | None, **more: Any) -> httpx.Response:
        return self.gateway.http.get(path, headers=bearer(secret), **more)

    def ask(self, secret: str | None, model: str = "solo", **more: Any) -> httpx.Response:
        return self.gateway.http.post(CHAT, json=chat(model, **more), headers=bearer(secret))

    def stop(self) -> None:
        self.gateway.stop()
        for engine in self.engines:
            engine.stop()


def bearer(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {"authorization": f"Bearer {secret}"}


def start_keyed(folder: Path, *more: str, status_needs_key: bool = False) -> Keyed:
    """Models solo and other, and an admin key to begin with (`secrets[0]`)."""
    database = Database(str(folder / "rigserve.db"))
    database.prepare()
    store = KeyStore(database)
    _, admin = store.create(Wish("ops", Role.ADMIN), "test")
    engines = [process.start("solo"), process.start("other")]
    flags = [f"--backend={model}={engine.url}/v1" for model, engine in zip(("solo", "other"), engines, strict=True)]
    flags += ["--database", str(folder / "rigserve.db"), *(() if status_needs_key else ("--open-status",)), *more]
    try:
        gateway = start_gateway(folder, *flags)
    except BaseException:
        for engine in engines:
            engine.stop()
        raise
    keyed = Keyed(gateway, engines, store, [admin])
    until(lambda: all(model["state"] == "ready" for model in keyed.get("/v1/models", admin).json()["data"]), "ready", 10)
    return keyed
