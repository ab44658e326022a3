"""The gateway put together: what all routes share. One object, made once, handed to everything that needs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from services.gateway.access_metrics import AccessCollector
from services.gateway.admission import View
from services.gateway.backends import Backend, from_flag, plan_backends
from services.gateway.breaker import RetryBudget
from services.gateway.directory import Directory, spec_of
from services.gateway.dispatch import Dispatcher
from services.gateway.door import Caller
from services.gateway.ejector import HEARTBEAT_S
from services.gateway.engine_errors import SAID_BY_A_WELL_ENGINE, AttemptFailed
from services.gateway.fits import FitBook
from services.gateway.fleet import HEARD_S, Fleet
from services.gateway.ledger import Ledger
from services.gateway.logs import RequestLog, log_event, utc_now
from services.gateway.metrics import Metrics
from services.gateway.once import Once
from services.gateway.outcome import Ending, Outcome
from services.gateway.pictures import Pictures
from services.gateway.recorder import Recorder
from services.gateway.refusals import RefusalBook
from services.gateway.request_ids import RequestIds
from services.gateway.roles import Roles
from services.gateway.seated import LAST_WORDS_S
from services.gateway.settings import Settings
from services.gateway.sweep import Sweep
from services.gateway.throughput import Throughput
from services.sizing.catalogue import Catalogue, UnknownModelError
from services.sizing.types import Plan
from services.wire.errors import ApiError, NoAvailableWorker


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a gateway is made from. `plan` and `catalogue` are None where there is none."""

    settings: Settings
    plan: Plan | None
    catalogue: Catalogue | None


class Running(Protocol):
    """An answer under way, on either way through the gateway."""

    def stop(self, error: ApiError) -> None:
        """Ends it with `error`: the gateway can't wait any longer."""


class Gateway:
    """Raises EndpointsError or ValueError (with a sentence) when the settings don't go together."""

    def __init__(self, inputs: Inputs) -> None:
        self.settings = settings = inputs.settings
        self.plan = inputs.plan
        self.catalogue = inputs.catalogue
        self.created = int(time.time())
        self.started_s = time.monotonic()
        self.draining = False
        self.running: set[Running] = set()
        self.ids = RequestIds()
        self.sweep = Sweep()
        self.request_log = RequestLog()
        self._idle = asyncio.Event()
        self.directory = Directory(backends_of(inputs), inputs.catalogue, settings.limits)
        self.dispatcher = Dispatcher({served.id: served.queue for served in self.directory.models.values()})
        heartbeat_s = min(HEARTBEAT_S, settings.deadlines.first_byte_s)
        self.fleet = Fleet(
            self.directory.backends, self._on_ready, settings.poll_s, settings.breaker, heartbeat_s, self.dispatcher.slots_grew
        )
        self.retry_budget = RetryBudget()
        self.once = Once()
        self.fits = FitBook(inputs.plan, inputs.catalogue)
        cards = inputs.plan.cards if inputs.plan else ()
        self.throughput = Throughput(self.directory, cards, self.started_s)
        self.fleet.on_status = self.throughput.energy.said
        self.metrics = Metrics(self.directory, cards)
        self.refusals = RefusalBook()
        self.ledger = Ledger(settings)
        self.metrics.registry.register(AccessCollector(self.ledger))
        self.roles = Roles(self, settings.keep_alive_s)
        self.recorder = Recorder(self.throughput.ended, self.metrics.ended, self.ledger.ended, self._teach, self._log)
        self.pictures = Pictures(settings.limits.picture_bytes, settings.limits.picture_s, time.monotonic)

    def _on_ready(self, backend: Backend, ready: bool) -> None:
        self.dispatcher.set_ready(backend.model_id, backend.id, ready)

    async def view(self, name: str, caller: Caller) -> View:
        """What is known about the model that a request names, to a caller who may use it."""
        serving = [model_id for model_id in self.directory.models if caller.may_use(model_id)]
        served = self.directory.get(name)
        if served is not None or self.catalogue is None:
            return View(name, served, serving, draining=self.draining)
        spec = spec_of(self.catalogue, name)
        if spec is None:
            return View(name, None, serving, nearest=nearest(self.catalogue, name), draining=self.draining)
        return View(name, None, serving, spec, await self.fits.of_model(spec), draining=self.draining)

    def enter(self, response: Running) -> None:
        """The response runs from now on."""
        self.running.add(response)

    def leave(self, response: Running) -> None:
        """It has ended."""
        self.running.discard(response)
        if self.draining and not self.running:
            self._idle.set()

    def attempt_failed(self, backend: Backend, failure: AttemptFailed) -> None:
        """One attempt on a backend gave nothing: counted, logged, believed."""
        self.recorder.settle()  # its breaker hears in the order in which it happened
        if failure.kind == "rejected":
            return
        backend.failures[failure.kind] = backend.failures.get(failure.kind, 0) + 1
        self.metrics.failures.labels(backend.id, failure.kind).inc()
        line: dict[str, object] = {"backend": backend.id, "kind": failure.kind, "error": failure.error.message}
        if failure.kind == "out_of_memory" and backend.placement is not None and backend.placement.report.bill is not None:
            line["bill_bytes"] = backend.placement.report.bill.total_bytes
        log_event("attempt_failed", line, logging.WARNING)
        if failure.down is not None and (failure.refused or time.monotonic() - backend.heard_s > HEARD_S):
            self.fleet.found_down(backend, failure.down)  # a connection that only came late is no sign where others hear from the engine
        if failure.kind not in SAID_BY_A_WELL_ENGINE:
            self.fleet.ejector.failed(backend, time.monotonic())
        if failure.kind == "deadline":
            backend.doubted = True
            self.fleet.ejector.doubt(backend)

    def may_retry(self) -> bool:
        """Whether a request that failed before its first byte may be tried on another backend: second attempts have a budget."""
        return self.retry_budget.take(time.monotonic())

    def record(self, outcome: Outcome) -> None:
        """One request has ended: meters, metrics, what the scheduler learns, one log line."""
        if outcome.ended_s is None:
            outcome.ended_s = time.monotonic()
        if outcome.taken:
            self.ledger.release(outcome)  # at once: its key may ask again
        if outcome.once is not None:
            self.once.end(outcome.once, outcome.ending is Ending.SERVED, outcome.ended_s)
        self.recorder.add(outcome)
        if outcome.backend is not None and outcome.backend.lane.speed.unit_s is None:
            self.recorder.settle()  # the scheduler sends it one request after the other until it is measured

    def _teach(self, outcomes: Sequence[Outcome]) -> None:
        """What the scheduler and the breakers learn of requests that have ended."""
        for outcome in outcomes:
            self.retry_budget.request()
            backend = outcome.backend
            if backend is None or outcome.ended_s is None:
                continue
            if outcome.ending is Ending.SERVED:
                backend.breaker.succeeded(outcome.ended_s)
                backend.finished += 1
            elif outcome.ending is Ending.FAILED:
                backend.failed += 1
            measured = outcome.measured()
            if measured is not None and backend.lane.measured(measured) and not backend.retired:
                self.dispatcher.slots_grew(backend.model_id)

    def _log(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.request_log.add(outcome.log_line())

    def ended_by(self, outcome: Outcome, error: ApiError, ending: Ending) -> None:
        """A request ends with an error; a refusal is remembered with its reason."""
        outcome.code, outcome.ending = error.code, ending
        if ending is Ending.REFUSED:
            self.refusals.add(outcome, error, utc_now())

    async def drain(self, grace_s: float) -> None:
        """Takes no more; what runs may end within `grace_s`; the rest is ended with an error."""
        self.draining = True
        log_event("draining", {"running": len(self.running), "grace_s": grace_s})
        await self._until_idle(grace_s)
        error: ApiError = NoAvailableWorker("This gateway is stopping before the answer was whole; try again.", retry_after_s=5.0)
        for response in list(self.running):
            response.stop(error)
        await self._until_idle(LAST_WORDS_S)

    async def _until_idle(self, at_most_s: float) -> None:
        self._idle.clear()
        if self.running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_most_s):
                    await self._idle.wait()


def backends_of(inputs: Inputs) -> list[Backend]:
    """One for each placement of the plan and each `--backend`. Raises EndpointsError or ValueError."""
    settings = inputs.settings
    backends = []
    if inputs.plan is not None:
        if settings.endpoints is None:
            raise ValueError("--plan needs --endpoints: where each placement of the plan listens.")
        backends = plan_backends(inputs.plan, settings.endpoints, partial(spec_of, inputs.catalogue))
    for number, (model_id, url) in enumerate(settings.backends):
        backends.append(from_flag(number, model_id, url, spec_of(inputs.catalogue, model_id), settings.limits))
    return backends


def nearest(catalogue: Catalogue, name: str) -> tuple[str, ...]:
    """Catalogue ids that look like `name`."""
    try:
        catalogue.get(name)
    except UnknownModelError as error:
        return error.nearest
    return ()
