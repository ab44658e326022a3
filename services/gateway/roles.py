"""Models on demand: looks at who waits, lets `residency` decide, and has the workers load and unload. The asyncio shell around it.

A request for a model that is not loaded waits in that model's queue like one that waits for a slot; its lane is `coming`. Workers are told
what to do on their own port, and what became of it comes back with their state (fleet.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from services.gateway import residency
from services.gateway.backends import Backend
from services.gateway.directory import Served
from services.gateway.dispatch import Dispatcher
from services.gateway.fleet import Fleet
from services.gateway.logs import log_event
from services.gateway.residency import Demand, Load, Phase, Role, Unload, Uses
from services.gateway.scheduler import Seat, Ticket
from services.gateway.upstream import UpstreamError
from services.wire.errors import BackendStarting, DeadlineExceeded, InvalidValue
from services.wire.worker import WorkerState

if TYPE_CHECKING:
    from services.gateway.core import Gateway
    from services.gateway.seated import SeatedResponse

LOOK_S = 0.25
ORDER_S = 2.0  # how long a worker may take to answer an order
ASKED_AGAIN_S = 60.0  # a client that was told to come again is counted as waiting for so long, and for twice the load
PINGS_PER_POLL = 5.0
PING = b": the model is loading\n\n"
PHASES = {
    WorkerState.STARTING: Phase.LOADING, WorkerState.LOADING: Phase.LOADING, WorkerState.WARMING: Phase.LOADING,
    WorkerState.RESTARTING: Phase.LOADING, WorkerState.READY: Phase.LOADED, WorkerState.DRAINING: Phase.LEAVING,
    WorkerState.UNLOADED: Phase.UNLOADED, WorkerState.FAILED: Phase.FAILED, WorkerState.UNREACHABLE: Phase.SILENT,
}  # fmt: skip


@dataclass(slots=True)
class _Watched:
    """What is remembered of one role. `taken`: seats of its lane that were seen."""

    taken: int = 0
    used_s: float | None = None
    pinned: bool = False
    told: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Model:
    """What is remembered of one model. `asked_s`: when those asked first who were told to come again."""

    uses: Uses = field(default_factory=Uses)
    asked_s: list[float] = field(default_factory=list)
    ordered: bool = False
    keep_alive_s: float | None = None


class Roles:
    """All placements on demand. `keep_alive_s`: for models of which no request has said otherwise; None: they stay."""

    def __init__(self, gateway: Gateway, keep_alive_s: float | None = None) -> None:
        self._gateway = gateway
        self._keep_alive_s = keep_alive_s
        self._watched: dict[str, _Watched] = {}
        self._models: dict[str, _Model] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.ping_s = PINGS_PER_POLL * gateway.settings.poll_s

    @property
    def _fleet(self) -> Fleet:
        return self._gateway.fleet

    @property
    def _dispatcher(self) -> Dispatcher:
        return self._gateway.dispatcher

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="models on demand")

    async def stop(self) -> None:
        tasks = [task for task in (self._task, *(watched.told for watched in self._watched.values())) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- requests ---

    def seat(self, response: SeatedResponse, ticket: Ticket, again: bool) -> AbstractAsyncContextManager[Seat]:
        """As Dispatcher.seat. For a model on demand: the wait may be longer (pings keep the client), BackendStarting says that it is not
        loaded in time, and its keep-alive counts from the end."""
        if not any(backend.on_demand for backend in response.served.backends):
            return self._dispatcher.seat(response.served.id, ticket, response.queue_s, again)
        return self._seat_once_loaded(response, ticket, again)

    @asynccontextmanager
    async def _seat_once_loaded(self, response: SeatedResponse, ticket: Ticket, again: bool) -> AsyncIterator[Seat]:
        served, seated, now = response.served, False, time.monotonic()
        for backend in served.backends:  # the last look may be older than its state
            if backend.on_demand:
                self._note(backend, now)
        queue_s = self._patience_s(response, now)
        pings = None if served.ready or not response.outcome.stream else asyncio.create_task(self._ping(response))
        self._woken.set()
        try:
            async with self._dispatcher.seat(served.id, ticket, queue_s, again) as seat:
                seated = True
                await _ended(pings)
                yield seat
        except DeadlineExceeded:
            if seated or served.ready:
                raise
            raise self._starting(served, time.monotonic()) from None
        finally:
            if response.keep_alive is not None:
                self._model(served.id).keep_alive_s = response.keep_alive.seconds
            self._woken.set()
            await _ended(pings)

    def _patience_s(self, response: SeatedResponse, now: float) -> float:
        """How long it may wait for its seat. Raises BackendStarting.

        1. Its model is loaded: as long as any request.
        2. It is a stream, which pings keep alive: that and twice the load, and no longer than a whole request may take.
        3. The load takes longer than it may wait: it is told to come again, and counts as one who waits.
        4. As long as any request.
        """
        served = response.served
        if served.ready:  # 1
            return response.queue_s
        loaded_s = self.loaded_in_s(served, now)
        if response.outcome.stream:  # 2
            return min(self._gateway.settings.deadlines.total_s, response.queue_s + 2 * loaded_s)
        if loaded_s > response.queue_s:  # 3
            raise self._starting(served, now)
        return response.queue_s  # 4

    def _starting(self, served: Served, now: float) -> BackendStarting:
        """The refusal; the load goes on or begins for it."""
        self._model(served.id).asked_s.append(now)
        self._woken.set()
        loaded_s = self.loaded_in_s(served, now)
        message = f"{served.id} is loaded on demand and not in memory yet; that takes about {loaded_s:.0f} s. Try again then."
        return BackendStarting(message, retry_after_s=loaded_s)

    def loaded_in_s(self, served: Served, now: float) -> float:
        """Seconds until the model could be loaded, if nothing is in its way: as measured at its last load, else as predicted."""
        left = []
        for backend in served.backends:
            load_s = backend.predicted_load_s or residency.UNKNOWN_LOAD_S
            loading = PHASES[backend.state] is Phase.LOADING
            left.append(max(1.0, load_s - (now - backend.since_s if loading else 0.0)))
        return min(left)

    async def _ping(self, response: SeatedResponse) -> None:
        """Comments that a client ignores and a proxy takes for life."""
        while True:
            await asyncio.sleep(self.ping_s)
            await response.ping(PING)

    # --- orders of the operator ---

    def order(self, served: Served, what: str) -> None:
        """`load`, `unload`, `pin` or `unpin` a model. Raises InvalidValue when that can't be done."""
        mine = [backend for backend in served.backends if backend.on_demand]
        if not mine:
            raise InvalidValue(f"{served.id} is not loaded on demand: its placement always stays in memory.", param="model")
        model, watched = self._model(served.id), [self._of(backend) for backend in mine]
        if what == "pin":
            self._pin(served, mine)
        if what in ("unpin", "unload"):
            for one in watched:
                one.pinned = False
        model.ordered = what in ("load", "pin") and not served.ready
        if what == "unload":
            model.asked_s.clear()
            for backend in mine:
                self._act(backend, Unload(backend.id, "an operator asked for it"))
        self._woken.set()

    def _pin(self, served: Served, mine: list[Backend]) -> None:
        """One of its placements: the loaded one, else the first whose card has room beside what is pinned there."""
        room = self._room_bytes()
        for role in self._roles(time.monotonic()):
            if self._watched[role.id].pinned and role.model_id != served.id:
                room[role.card_id] -= role.need_bytes
        fitting = [backend for backend in mine if _need_bytes(backend) <= room[_card(backend)]]
        if not fitting:
            raise InvalidValue(f"{served.id} has no room beside the models that are pinned already; unpin one of them.", param="model")
        for backend in mine:
            self._of(backend).pinned = False
        self._of(min(fitting, key=lambda backend: backend.state is not WorkerState.READY)).pinned = True

    def is_pinned(self, backend: Backend) -> bool:
        return self._of(backend).pinned

    # --- looking and acting ---

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()
            self._woken.clear()
            try:
                self.look(time.monotonic())
            except Exception:  # noqa: BLE001 - a watch that ended would leave every model where it is for ever
                log_event("look_failed", {"at": "models on demand"}, logging.ERROR, with_traceback=True)
            await asyncio.sleep(0)

    def look(self, now: float) -> None:
        """One decision, and what it asks for."""
        backends = {backend.id: backend for backend in self._on_demand()}
        for backend in backends.values():
            self._note(backend, now)
        if not backends:
            return
        for act in residency.decide(self._room_bytes(), self._roles(now), self._demand(now), now):
            self._act(backends[act.role_id], act)

    def _on_demand(self) -> Iterator[Backend]:
        return (backend for backend in self._gateway.directory.backends if backend.on_demand)

    def _note(self, backend: Backend, now: float) -> None:
        """What has happened on its lane since the last look, and whether those who wait for it wait for something."""
        watched, lane = self._of(backend), backend.lane
        if lane.in_flight or lane.taken != watched.taken:
            watched.used_s = now
        if lane.taken != watched.taken:
            self._model(backend.model_id).uses.add(now, lane.taken - watched.taken)
            watched.taken = lane.taken
        model = self._model(backend.model_id)
        if backend.state is WorkerState.READY:
            model.ordered, model.asked_s = False, []
        limit_s = max(ASKED_AGAIN_S, 2 * (backend.predicted_load_s or 0.0))
        model.asked_s = [asked_s for asked_s in model.asked_s if now - asked_s < limit_s]
        coming = backend.loadable(now)
        if lane.coming != coming:
            lane.coming = coming
            self._dispatcher.tell_orphans(backend.model_id)

    def _demand(self, now: float) -> dict[str, Demand]:
        """Who waits for a model that is loaded elsewhere, for good, waits for a slot."""
        found = {}
        for served in self._gateway.directory.models.values():
            model = self._model(served.id)
            stays = any(not backend.on_demand and backend.serving for backend in served.backends)
            waiting = () if stays else (*(place.since_s for place in served.queue.waiting.places), *model.asked_s)
            found[served.id] = Demand(waiting, model.uses.per_s(now), model.ordered)
        return found

    def _roles(self, now: float) -> list[Role]:
        roles = []
        for backend in self._on_demand():
            watched, model = self._of(backend), self._model(backend.model_id)
            phase = PHASES[backend.state]
            if phase is Phase.FAILED and backend.loadable(now):
                phase = Phase.UNLOADED
            since_s, kept_s = backend.since_s, model.keep_alive_s
            roles.append(Role(
                backend.id, backend.model_id, _card(backend), _need_bytes(backend), backend.predicted_load_s, phase, since_s,
                watched.used_s if (watched.used_s or 0.0) >= since_s else None, backend.lane.in_flight, watched.pinned, kept_s,
            ))  # fmt: skip
        return roles

    def _room_bytes(self) -> dict[str, int]:
        """By card, what is left beside the placements that always stay."""
        room: dict[str, int] = {}
        for backend in self._gateway.directory.backends:
            if backend.card is not None:
                free = backend.card.free_bytes
                room.setdefault(backend.card.id, backend.card.total_bytes if free is None else min(free, backend.card.total_bytes))
                if not backend.on_demand:
                    room[backend.card.id] -= _need_bytes(backend)
        return room

    def _act(self, backend: Backend, act: Load | Unload) -> None:
        """Tells its worker, once at a time."""
        watched = self._of(backend)
        if watched.told is not None and not watched.told.done():
            return
        if isinstance(act, Unload):
            if PHASES[backend.state] not in (Phase.LOADED, Phase.LOADING):
                return
            backend.held_down_until_s = time.monotonic() + ORDER_S  # "ready" is old news from here on
            self._fleet.mark(backend, WorkerState.DRAINING, f"it is unloaded: {act.why}")
        watched.told = asyncio.create_task(self._tell(backend, act), name=f"order {backend.id}")

    async def _tell(self, backend: Backend, act: Load | Unload) -> None:
        path = "/load" if isinstance(act, Load) else "/unload"
        log_event("order", {"backend": backend.id, "order": path[1:], "why": act.why if isinstance(act, Unload) else None})
        assert backend.worker is not None
        try:
            status, body = await backend.worker.fetch("POST", path, timeout_s=ORDER_S)
            state = WorkerState(orjson.loads(body)["state"]) if status == 202 else None
        except (UpstreamError, TimeoutError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            log_event("order_failed", {"backend": backend.id, "order": path[1:], "error": str(error)}, logging.WARNING)
            await asyncio.sleep(ORDER_S)  # its state is asked for meanwhile; then it may be told again
            return
        if state is not None:
            self._fleet.mark(backend, state, f"it was told to {path[1:]}")

    def _of(self, backend: Backend) -> _Watched:
        return self._watched.setdefault(backend.id, _Watched())

    def _model(self, model_id: str) -> _Model:
        return self._models.setdefault(model_id, _Model(keep_alive_s=self._keep_alive_s))


def _card(backend: Backend) -> str:
    assert backend.card is not None
    return backend.card.id


def _need_bytes(backend: Backend) -> int:
    """What its bill says."""
    assert backend.placement is not None
    return backend.placement.report.need_bytes or 0


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
