"""Another plan and other endpoints while requests run: SIGHUP reads the files again.

What is new is read, checked and built first; the change itself is one step of the event loop, so no request ever sees half of it. A file
that can't be used changes nothing. Requests that run keep their seat, their engine's connection and their deadlines, also where their
engine is not in the new plan any more; requests that wait for a model that is gone are told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.backends import Backend, EndpointsError
from services.gateway.core import Gateway, Inputs, backends_of
from services.gateway.fits import FitBook
from services.gateway.logs import log_event
from services.sizing.catalogue import CatalogueError
from services.sizing.planfile import PlanFileError

Read = Callable[[], Inputs]


@dataclass(frozen=True, slots=True)
class Change:
    """Ids of backends. A backend whose engine, address or size is another one is in both `added` and `removed`."""

    kept: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


class Reloader:
    """Reads again by `read` when asked to; one after the other."""

    def __init__(self, gateway: Gateway, read: Read) -> None:
        self._gateway = gateway
        self._read = read
        self._lock = asyncio.Lock()

    async def reload(self) -> Change | None:
        """What changed; None when the files can't be used: then nothing has."""
        async with self._lock:
            try:
                inputs = await asyncio.to_thread(self._read)
                backends = backends_of(inputs)
            except (EndpointsError, PlanFileError, CatalogueError, ValueError, OSError) as error:
                self._gateway.metrics.reloads.labels("refused").inc()
                log_event("reload_refused", {"error": str(error), "now": "the configuration stays as it was"}, logging.ERROR)
                return None
            change = apply(self._gateway, inputs, backends)
            self._gateway.metrics.reloads.labels("done").inc()
            log_event("reloaded", {"kept": change.kept, "added": change.added, "removed": change.removed})
            return change


def apply(gateway: Gateway, inputs: Inputs, backends: list[Backend]) -> Change:
    """Puts the new backends in the place of the old ones. Nothing in here waits.

    1. A backend that is as it was stays the object that it is, with its state, its seats and what was learned of it.
    2. Models, lanes and queues; who waits for a lane that is gone, and has no other, is told.
    3. The new ones are watched, the old ones no longer; their connections close as their requests end.
    4. What describes the rig.
    """
    old = {backend.id: backend for backend in gateway.directory.backends}
    kept = {new.id for new in backends if new.id in old and old[new.id].serves_as(new)}  # 1
    for new in backends:
        if new.id in kept:
            old[new.id].placement, old[new.id].card = new.placement, new.card
    removed = [backend for backend in old.values() if backend.id not in kept]
    for backend in removed:  # 2
        gateway.dispatcher.set_ready(backend.model_id, backend.id, False)
    now = [old[new.id] if new.id in kept else new for new in backends]
    gateway.directory.replace(now, inputs.catalogue)
    gateway.dispatcher.add({served.id: served.queue for served in gateway.directory.models.values()})
    gateway.fleet.replace(now)  # 3
    cards = inputs.plan.cards if inputs.plan else ()
    gateway.plan, gateway.catalogue, gateway.fits = inputs.plan, inputs.catalogue, FitBook(inputs.plan, inputs.catalogue)  # 4
    gateway.throughput.replace(cards)
    gateway.metrics.state.cards = cards
    return Change(tuple(sorted(kept)), tuple(b.id for b in now if b.id not in kept), tuple(b.id for b in removed))
