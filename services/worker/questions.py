"""What the driver asks its engine over HTTP, each off the event loop: is it well, does it work, what does it hold, who is it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from services.sizing.types import Engine
from services.worker.engines.order import Launch
from services.worker.inflight import requests_in_flight
from services.worker.probe import EngineHttp, NoAnswer
from services.worker.version import installed_version


@dataclass(frozen=True, slots=True)
class Questions:
    """One engine's port. `probe_timeout_s` bounds every question but `works`, which gives a small request `check_timeout_s`."""

    http: EngineHttp
    engine: Engine
    probe_timeout_s: float
    check_timeout_s: float

    async def well(self, launch: Launch) -> str | None:
        """None when the health route says 200, else what it said."""
        try:
            answer = await asyncio.to_thread(self.http.ask, "GET", launch.health_path, timeout_s=self.probe_timeout_s)
        except NoAnswer as error:
            return str(error)
        return None if answer.status == 200 else f"GET {launch.health_path}: status {answer.status}"

    async def works(self, launch: Launch) -> str | None:
        """None while the engine works. It hangs when a small request gets no answer and its own counters stand still meanwhile:
        an engine whose core has stopped answers /health and /metrics as before."""
        before = await self._work_done()
        try:
            await asyncio.to_thread(self.http.ask, "POST", launch.warm_up.path, launch.warm_up.body, timeout_s=self.check_timeout_s)
        except NoAnswer:
            if await self._work_done() == before:
                return f"no answer to a small request within {self.check_timeout_s:g} s, and its counters stand still"
        return None

    async def first_result(self, launch: Launch, patience_s: float) -> str | None:
        """The warm-up request; a sentence when it failed."""
        try:
            answer = await asyncio.to_thread(self.http.ask, "POST", launch.warm_up.path, launch.warm_up.body, timeout_s=patience_s)
        except NoAnswer as error:
            return f"the warm-up request got no answer: {error}"
        if answer.status == 200:
            return None
        return f"the warm-up request failed with {answer.status}: {answer.body[:300].decode('utf8', 'replace')}"

    async def in_flight(self, timeout_s: float) -> int | None:
        """Requests that run or wait in it; None when it doesn't say."""
        text = await self._metrics(timeout_s)
        return None if text is None else requests_in_flight(self.engine, text)

    async def version(self, launch: Launch, engine_python: Path | None) -> str | None:
        """From its environment, else the engine's own word; None when neither says."""
        known = installed_version(engine_python, launch.packages)
        if known is not None or launch.version is None:
            return known
        path, key = launch.version
        try:
            facts = (await asyncio.to_thread(self.http.ask, "GET", path, timeout_s=self.probe_timeout_s)).json()
        except NoAnswer:
            return None
        return str(facts[key]) if isinstance(facts, dict) and facts.get(key) else None

    async def _work_done(self) -> tuple[str, ...] | None:
        """The engine's own counters of tokens or steps, as /metrics writes them; None when it gives none."""
        text = await self._metrics(self.probe_timeout_s)
        if text is None:
            return None
        return tuple(line for line in text.splitlines() if not line.startswith("#") and ("token" in line or "step" in line))

    async def _metrics(self, timeout_s: float) -> str | None:
        """What the engine's /metrics says; None when it says nothing."""
        try:
            answer = await asyncio.to_thread(self.http.ask, "GET", "/metrics", timeout_s=max(0.1, timeout_s))
        except NoAnswer:
            return None
        return answer.body.decode("utf8", "replace") if answer.status == 200 else None
