"""A hot card at the gateway: fewer seats, none, and all again; what the refusal says. From a played trace to the 503."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest

from services.gateway.admission import admit
from services.gateway.backends import from_placement
from services.gateway.directory import Directory
from services.gateway.dispatch import Dispatcher
from services.gateway.fleet import Fleet
from services.gateway.heat import Heat, heat_of, hot_slots
from services.gateway.scheduler import Need, Ticket
from services.gateway.settings import Limits
from services.wire.errors import NoAvailableWorker
from services.wire.worker import WorkerState
from services.worker.heat import Heat as WorkerHeat
from services.worker.heat import heeded, intake
from tests.fakes.answers import worker_status
from tests.gateway.rig import CHAT, Rig, until
from tests.gateway.test_admission import CATALOGUE, PLAN, SMOL, view
from tests.hardware.trace import TraceMeter

HALF = {"intake": {"share": 0.5, "reason": "warm", "retry_after_s": 12.0}}


@pytest.mark.parametrize(("said", "heat"), [
    ({}, None), ({"intake": None}, None), ({"intake": {"share": 1.0}}, None), ({"intake": {"share": "0"}}, None),
    ({"intake": {"share": -1}}, None), ({"intake": {"share": True}}, None), (HALF, Heat(0.5, "warm", 12.0)),
    ({"intake": {"share": 0}}, Heat(0.0, "its card is too hot", None)),
    ({"intake": {"share": 0, "reason": "x", "retry_after_s": 1e9}}, Heat(0.0, "x", None)),
])  # fmt: skip
def test_a_workers_word(said: dict[str, Any], heat: Heat | None) -> None:
    assert heat_of(said) == heat


@pytest.mark.parametrize(("slots", "share", "may"), [(5, None, None), (5, 0.5, 2), (1, 0.5, 1), (5, 0.0, 0)])
def test_slots(slots: int, share: float | None, may: int | None) -> None:
    assert hot_slots(slots, None if share is None else Heat(share, "hot", None)) == may


def rig() -> tuple[Directory, Fleet, Dispatcher]:
    ends = {"engine_url": "http://h:1", "worker_url": "http://h:2", "token_file": None}
    directory = Directory([from_placement(place, PLAN.cards[0], ends) for place in PLAN.placements], CATALOGUE, Limits())
    dispatcher = Dispatcher({served.id: served.queue for served in directory.models.values()})
    fleet = Fleet(directory.backends, lambda b, ready: dispatcher.set_ready(b.model_id, b.id, ready), 1.0, on_slots=dispatcher.slots_grew)
    return directory, fleet, dispatcher


def says(fleet: Fleet, backend: Any, **more: Any) -> None:
    fleet._worker_said(backend, worker_status(backend.id, backend.model_id, "GPU-1", "ready") | more)


async def test_the_trace_of_a_fan_that_fails_up_to_the_503() -> None:
    directory, fleet, _ = rig()
    served = directory.models[SMOL]
    (backend,) = served.backends
    meter, heat, seats, refusals = TraceMeter("fan_fails"), WorkerHeat(), [], []
    for second in range(len(meter.trace)):
        heat = heeded(heat, meter.read(float(second)), float(second))
        says(fleet, backend, intake=asdict(intake(heat, float(second))))
        taken = [served.queue.request(Ticket(Need()), second) for _ in range(2)]
        seats.append(sum(seat is not None for seat in taken))
        for ticket in [*served.queue.waiting]:
            served.queue.cancel(ticket)
        for seat in filter(None, taken):
            served.queue.give_back(seat, second + 0.1, True)
        try:
            admit(view(directory, SMOL), "text", second)
        except NoAvailableWorker as error:
            refusals.append(error)
    order = [seats[0]] + [now for before, now in pairwise(seats) if now != before]
    assert order == [2, 1, 0, 2], "both slots, half of them, none, both again"
    assert len(refusals) == seats.count(0) > 10
    assert refusals[0].status == 503
    assert refusals[0].message == (f"{SMOL} waits for its card to cool: its core is at 90 °C and slows down at 92 °C; "
                                   "it takes no new requests until it is 8 °C below.")
    assert refusals[0].retry_after_s == 30.0
    assert 1 <= refusals[-1].retry_after_s <= 10, "it is known by then how fast it cools"
    assert backend.state is WorkerState.READY


async def test_who_waits_goes_on_waiting_and_is_served_when_it_is_cool() -> None:
    directory, fleet, dispatcher = rig()
    (backend,) = directory.models[SMOL].backends
    says(fleet, backend, intake={"share": 0.0, "reason": "hot", "retry_after_s": 5.0})

    async def served() -> str:
        async with dispatcher.seat(SMOL, Ticket(Need()), 5.0) as seat:
            return seat.lane.id

    waiting = asyncio.create_task(served())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert not directory.models[SMOL].ready
    says(fleet, backend, **HALF)
    assert await asyncio.wait_for(waiting, 1) == backend.id
    assert directory.models[SMOL].ready == [backend]
    says(fleet, backend)
    assert (backend.heat, backend.lane.hot_slots) == (None, None)


async def test_another_card_takes_what_a_hot_one_may_not() -> None:
    directory, fleet, _ = rig()
    served = directory.models[SMOL]
    (hot,) = served.backends
    cool = from_placement(PLAN.placements[0], PLAN.cards[0], {"engine_url": "http://h:3", "worker_url": "http://h:4", "token_file": None})
    cool.lane.id = cool.id = "cool"
    directory.replace([hot, cool], CATALOGUE)
    fleet.backends["cool"] = cool
    says(fleet, hot, intake={"share": 0.0, "reason": "hot", "retry_after_s": 5.0})
    says(fleet, cool)
    seat = served.queue.request(Ticket(Need()), 1.0)
    assert seat is not None
    assert seat.lane.id == "cool"
    assert admit(view(directory, SMOL), "text", 1.0) is served


def test_over_real_sockets(rig: Rig) -> None:
    """A client that asks a model whose only card is too hot: 503, the reason, Retry-After; then it is cool, and answered."""
    engine = rig.engines[next(place.id for place in PLAN.placements if place.model_id == SMOL)]
    body = {"model": SMOL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    engine.set(status={"intake": {"share": 0.0, "reason": "its core is at 90 °C", "retry_after_s": 7.0}})
    try:
        refused = until(lambda: (answer := rig.gateway.post(CHAT, body)).status_code == 503 and answer, "refused for heat", 5)
    finally:
        engine.set(status=None)
    assert refused.headers["retry-after"] == "7"
    assert refused.json()["error"]["code"] == "no_available_worker"
    assert refused.json()["error"]["message"] == f"{SMOL} waits for its card to cool: its core is at 90 °C."
    assert until(lambda: (answer := rig.gateway.post(CHAT, body)).status_code == 200 and answer, "cool again", 5).json()["choices"]
