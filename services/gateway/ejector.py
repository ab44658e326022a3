"""Takes backends out of service that say they are ready and fail, and brings them back: the shell around breaker.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from services.gateway import heartbeat
from services.gateway.backends import Backend
from services.gateway.breaker import BreakerLimits, in_service
from services.gateway.logs import log_event
from services.wire.worker import WorkerState

HEARTBEAT_S = 10.0  # a 2 s probe made 8 false restarts a day elsewhere
IMAGE_HEARTBEAT_S = 60.0

OnReady = Callable[[Backend, bool], None]


class Ejector:
    """`backends` are those of now, by id. `on_ready` is told of every change between serving and not serving."""

    def __init__(
        self, backends: Callable[[], Mapping[str, Backend]], on_ready: OnReady, poll_s: float, limits: BreakerLimits, heartbeat_s: float
    ) -> None:
        self.limits = limits
        self._backends = backends
        self._on_ready = on_ready
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._hearts: dict[str, asyncio.Task[None]] = {}

    def failed(self, backend: Backend, now: float) -> None:
        """An attempt failed by the backend's fault."""
        if backend.breaker.failed(now):
            self._moved(backend)
            self._feel(backend, in_doubt=False)

    def doubt(self, backend: Backend) -> None:
        """A request waited in vain: does the engine still make tokens?"""
        self._feel(backend, in_doubt=True)

    def settle(self, model_id: str) -> None:
        """Who of a model's backends serves now. Those that begin come first, so that nobody who waits is sent away between."""
        changed = []
        for backend in self._backends().values():
            if backend.model_id == model_id and not backend.retired:
                serving = backend.state is WorkerState.READY and in_service(backend.breaker, self._others_closed(backend))
                if serving != backend.serving:
                    changed.append((backend, serving))
        for backend, serving in sorted(changed, key=lambda change: not change[1]):
            backend.serving = serving
            self._on_ready(backend, serving)

    async def stop(self) -> None:
        for heart in self._hearts.values():
            heart.cancel()
        await asyncio.gather(*self._hearts.values(), return_exceptions=True)

    def _feel(self, backend: Backend, in_doubt: bool) -> None:
        heart = self._hearts.get(backend.id)
        if heart is None or heart.done():
            self._hearts[backend.id] = asyncio.create_task(self._beat(backend, in_doubt), name=f"heartbeat {backend.id}")

    async def _beat(self, backend: Backend, in_doubt: bool) -> None:
        """Heartbeats while it is in doubt or its breaker is not closed; none while it is not ready by its own word, or gone."""
        breaker = backend.breaker
        while (in_doubt or not breaker.closed) and not backend.retired:
            if backend.state is not WorkerState.READY:
                in_doubt = False
            elif self._is_due(backend):
                well = await heartbeat.is_well(backend, IMAGE_HEARTBEAT_S if backend.kind == "image" else self._heartbeat_s)
                backend.heartbeats[not well] += 1
                if breaker.heartbeat(well, time.monotonic()):
                    self._moved(backend)
                in_doubt = in_doubt and not well and breaker.closed
            await asyncio.sleep(self._poll_s)

    def _is_due(self, backend: Backend) -> bool:
        """An image engine does one job at a time, so one that works on a picture is not asked."""
        if backend.kind == "image" and backend.lane.in_flight:
            return False
        return backend.breaker.closed or backend.breaker.due(time.monotonic(), alone=not self._others_closed(backend))

    def _moved(self, backend: Backend) -> None:
        breaker = backend.breaker
        open_s = None if breaker.closed else breaker.open_for_s
        line: dict[str, object] = {"backend": backend.id, "phase": breaker.phase, "open_s": open_s, "mute": breaker.mute}
        log_event("breaker", line, logging.INFO if breaker.closed else logging.WARNING)
        self.settle(backend.model_id)

    def _others_closed(self, backend: Backend) -> bool:
        return any(
            other.state is WorkerState.READY and other.breaker.closed
            for other in self._backends().values()
            if other.model_id == backend.model_id and other is not backend and not other.retired
        )  # fmt: skip
