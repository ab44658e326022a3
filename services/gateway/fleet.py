"""Keeps every backend's state true: asks each worker once a second, and believes at once what a request has found out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from services.gateway import heartbeat
from services.gateway.backends import Backend
from services.gateway.breaker import BreakerLimits
from services.gateway.ejector import HEARTBEAT_S, Ejector, OnReady
from services.gateway.heat import heat_of, hot_slots
from services.gateway.logs import log_event
from services.gateway.upstream import ConnectFailed, UpstreamError
from services.wire.worker import WorkerState

# A worker that falls silent is unreachable within 5 s: 1 s since it last answered, then 1.2 + 1 + 1.2 s.
WORKER_TIMEOUT_S = 1.2
WORKER_STRIKES = 2
LOADING_STRIKES = 20  # loading a model can take every core of a small host
# An engine that is busy answers /health late: a 2 s probe made 8 false restarts a day elsewhere, so probes are patient.
PROBE_TIMEOUT_S = 10.0
PROBE_STRIKES = 3
HEARD_S = 5.0
# A worker notices its dead engine within a second or two; until then its "ready" is old news.
HOLD_DOWN_S = 2.0


class Fleet:
    """All backends. `on_ready` is told of every change between serving and not serving: what is ready can be ejected for failing.
    `on_slots(model_id)` when a card that was hot may have more requests again."""

    def __init__(
        self, backends: Sequence[Backend], on_ready: OnReady, poll_s: float, limits: BreakerLimits | None = None,
        heartbeat_s: float = HEARTBEAT_S, on_slots: Callable[[str], None] = lambda model_id: None,
    ) -> None:  # fmt: skip
        self.backends = {backend.id: backend for backend in backends}
        self.ejector = Ejector(lambda: self.backends, on_ready, poll_s, limits or BreakerLimits(), heartbeat_s)
        self._poll_s, self._on_slots = poll_s, on_slots
        self.on_status: Callable[[Backend, float], None] = lambda backend, now: None  # a worker has said how it is, at a monotonic time
        self._tasks: dict[Backend, asyncio.Task[None]] = {}

    def start(self) -> None:
        for backend in self.backends.values():
            self._begin(backend)

    def replace(self, backends: Sequence[Backend]) -> None:
        """Watches these from now on, and no others. Who is gone can still be looked up: a seat of it may just have been granted."""
        gone = [backend for backend in self._tasks if backend not in backends]
        for backend in gone:
            self._tasks.pop(backend).cancel()
            backend.retired = True
            backend.upstream.retire()
            if backend.worker is not None:
                backend.worker.retire()
        self.backends |= {backend.id: backend for backend in backends}
        for backend in backends:
            if backend not in self._tasks:
                self._begin(backend)

    def _begin(self, backend: Backend) -> None:
        backend.since_s = time.monotonic()
        self._tasks[backend] = asyncio.create_task(self._watch(backend), name=f"watch {backend.id}")

    async def stop(self) -> None:
        await self.ejector.stop()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for backend in self.backends.values():
            backend.upstream.close()
            if backend.worker is not None:
                backend.worker.close()

    async def _watch(self, backend: Backend) -> None:
        backend.breaker.limits = self.ejector.limits
        while True:
            try:
                await (self._probe(backend) if backend.worker is None else self._ask_worker(backend))
            except Exception:  # noqa: BLE001 - a watch that ended would freeze the backend's state for ever
                log_event("watch_failed", {"backend": backend.id}, logging.ERROR, with_traceback=True)
            await asyncio.sleep(self._poll_s)

    def mark(self, backend: Backend, state: WorkerState, reason: str | None) -> None:
        """The backend is in `state` now."""
        backend.reason = None if state is WorkerState.READY else reason
        if state is backend.state:
            return
        log_event("backend", {"backend": backend.id, "from": backend.state, "to": state, "reason": reason})
        backend.state, backend.since_s = state, time.monotonic()
        self.ejector.settle(backend.model_id)

    def found_down(self, backend: Backend, reason: str) -> None:
        """A request could not connect to the engine's port."""
        backend.held_down_until_s = time.monotonic() + HOLD_DOWN_S
        self.mark(backend, WorkerState.UNREACHABLE, reason)

    # --- a placement: its worker says how it is ---------------------------------------------------------------------------

    async def _ask_worker(self, backend: Backend) -> None:
        assert backend.worker is not None
        try:
            if backend.doubted:  # a request waited in vain: /health alone can't tell an engine that hangs
                await backend.worker.fetch("POST", "/check", timeout_s=WORKER_TIMEOUT_S)
                backend.doubted = False
            status, body = await backend.worker.fetch("GET", "/status", timeout_s=WORKER_TIMEOUT_S)
        except (UpstreamError, TimeoutError) as error:
            self._worker_silent(backend, error)
            return
        said = parse_status(body) if status == 200 else None
        if said is None:
            self.mark(backend, WorkerState.UNREACHABLE, f"its worker answered {status} without a usable status")
        elif said["placement_id"] != backend.id:
            self.mark(backend, WorkerState.UNREACHABLE, "the worker of another placement answers at its address")
        elif said.get("model_id", backend.model_id) != backend.model_id:
            self.mark(backend, WorkerState.UNREACHABLE, f"its worker serves another model now, not {backend.model_id}")
        else:
            self._worker_said(backend, said)

    def _worker_silent(self, backend: Backend, error: Exception) -> None:
        """1. Never seen: it is still coming up. 2. Nobody listens, or nobody has its name: gone. 3. Tokens moved just now, or not silent
        for long: busy, as it was. 4. Silent for long: unreachable, and where another backend of the model is ready, what waits here for
        its first byte is given up, to be tried there. (Alone it may as well wait: a host that is only overloaded answers in the end.)"""
        backend.strikes += 1
        allowed = WORKER_STRIKES if backend.state is WorkerState.READY else LOADING_STRIKES
        if not backend.seen:  # 1
            self.mark(backend, WorkerState.STARTING, "its worker is not up yet")
        elif isinstance(error, ConnectFailed) and error.refused:  # 2
            self.mark(backend, WorkerState.UNREACHABLE, "its worker is gone: nobody listens at its port")
        elif isinstance(error, ConnectFailed) and error.nameless:
            self.mark(backend, WorkerState.UNREACHABLE, f"its worker is gone: nothing is named {backend.upstream.origin.host} any more")
        elif time.monotonic() - backend.heard_s > HEARD_S and backend.strikes >= allowed:  # 3, 4
            self.mark(backend, WorkerState.UNREACHABLE, "its worker does not answer")
            if any(other.state is WorkerState.READY for other in self._tasks if other.model_id == backend.model_id):
                backend.upstream.give_up_unanswered()

    def _worker_said(self, backend: Backend, said: dict[str, Any]) -> None:
        before = (backend.status or said)["state"]
        backend.strikes, backend.seen, backend.status = 0, True, said
        self._heed_heat(backend, said)
        self.on_status(backend, time.monotonic())
        state = WorkerState(said["state"])
        if state is WorkerState.READY and before != state:  # a worker is ready again only after its engine has answered a real request
            backend.breaker.warmed_up(time.monotonic())
        if state is WorkerState.READY and time.monotonic() < backend.held_down_until_s:
            return
        self.mark(backend, state, said.get("reason") or f"its engine is {state}")

    def _heed_heat(self, backend: Backend, said: dict[str, Any]) -> None:
        """What runs goes on; who waits goes on waiting; new requests get the slots that its card may have."""
        before, backend.heat = backend.heat, heat_of(said)
        backend.lane.hot_slots = hot_slots(backend.lane.slots, backend.heat)
        was, share = before.share if before else 1.0, backend.heat.share if backend.heat else 1.0
        if share != was:
            log_event("card_heat", {"backend": backend.id, "share": share, "reason": backend.heat.reason if backend.heat else None})
        if share > was:
            self._on_slots(backend.model_id)

    # --- a --backend: there is only the engine to ask -----------------------------------------------------------------------

    async def _probe(self, backend: Backend) -> None:
        """GET /health, and where there is no such route GET /v1/models."""
        try:
            status, _ = await backend.upstream.fetch("GET", backend.probe_path, timeout_s=PROBE_TIMEOUT_S)
            if status in (404, 405, 501) and backend.probe_path == "/health":
                backend.probe_path = "/v1/models"
                status, _ = await backend.upstream.fetch("GET", backend.probe_path, timeout_s=PROBE_TIMEOUT_S)
            same = status >= 500 or await self._same_model(backend)
        except ConnectFailed as error:
            backend.strikes = 0
            self.mark(backend, WorkerState.UNREACHABLE, str(error))
        except (UpstreamError, TimeoutError):
            backend.strikes += 1
            if time.monotonic() - backend.heard_s > HEARD_S and (backend.strikes >= PROBE_STRIKES or not backend.seen):
                self.mark(backend, WorkerState.UNREACHABLE, "it does not answer")
        else:
            backend.strikes, backend.seen = 0, True
            if status == 503:
                self.mark(backend, WorkerState.LOADING, "it answers 503: it is not ready")
            elif status >= 500:
                self.mark(backend, WorkerState.UNREACHABLE, f"it answers {status}")
            elif not same:
                self.mark(backend, WorkerState.UNREACHABLE, f"it serves another model now, not {backend.model_id}")
            else:
                self.mark(backend, WorkerState.READY, None)

    async def _same_model(self, backend: Backend) -> bool:
        """Whether the engine still lists one of the models that it listed at first, or ours: it may have been started anew with another.
        Looked at when a connection was made since, so what answers may be another process. An engine that lists nothing is believed."""
        upstream = backend.upstream
        if backend.named_connects == upstream.connects and backend.state is WorkerState.READY:
            return True
        status, body = await upstream.fetch("GET", "/v1/models", timeout_s=PROBE_TIMEOUT_S)
        backend.named_connects = upstream.connects
        names = heartbeat.models_of(body) if status == 200 else frozenset()
        backend.names = backend.names or names
        return not names or backend.model_id in names or not names.isdisjoint(backend.names)


def parse_status(body: bytes) -> dict[str, Any] | None:
    """The JSON form of a WorkerStatus, None when it is none. Only what is acted on is checked."""
    try:
        value = orjson.loads(body)
        WorkerState(value["state"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("placement_id"), str) else None
