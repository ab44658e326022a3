"""Seats for coroutines: given, waited for, given back, in every ending."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.dispatch import Dispatcher
from services.gateway.scheduler import Lane, ModelQueue, Need, Ticket
from services.wire.errors import DeadlineExceeded, NoAvailableWorker, QueueFull


def dispatcher(slots: int = 1, limit: int = 5) -> tuple[Dispatcher, Lane]:
    lane = Lane("a", slots, ready=True)
    return Dispatcher({"m": ModelQueue(limit, [lane])}), lane


async def hold(d: Dispatcher, go: asyncio.Event, log: list[int], number: int, queue_s: float = 5.0) -> None:
    async with d.seat("m", Ticket(Need()), queue_s):
        log.append(number)
        await go.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_they_wait_in_order_and_all_seats_come_back() -> None:
    d, lane = dispatcher()
    go, log = asyncio.Event(), []
    go.set()
    await asyncio.gather(*(hold(d, go, log, i) for i in range(5)))
    assert log == [0, 1, 2, 3, 4]
    assert lane.in_flight == 0
    assert d._futures == {}


async def test_an_error_inside_gives_the_seat_back() -> None:
    d, lane = dispatcher()
    with pytest.raises(RuntimeError):
        async with d.seat("m", Ticket(Need()), 1):
            raise RuntimeError
    assert lane.in_flight == 0
    assert d.queues["m"].service_s is None, "a failure is no service time"


async def test_queue_full_has_a_wait() -> None:
    d, _ = dispatcher(limit=0)
    async with d.seat("m", Ticket(Need()), 1):
        with pytest.raises(QueueFull) as full:
            async with d.seat("m", Ticket(Need()), 1):
                pass
    assert full.value.retry_after_s is not None


async def test_queue_deadline() -> None:
    d, lane = dispatcher()
    async with d.seat("m", Ticket(Need()), 1):
        with pytest.raises(DeadlineExceeded):
            async with d.seat("m", Ticket(Need()), 0.01):
                pass
        assert len(d.queues["m"].waiting) == 0
    assert lane.in_flight == 0


async def test_a_waiter_that_is_cancelled_leaves_the_queue() -> None:
    d, lane = dispatcher()
    go, log = asyncio.Event(), []
    tasks = [asyncio.create_task(hold(d, go, log, i)) for i in range(3)]
    await settle()
    tasks[1].cancel()
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == [0, 2]
    assert lane.in_flight == 0


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancelled_in_the_very_moment_of_the_grant(cancel_first: bool) -> None:
    """The seat goes on to the next one and is not lost."""
    d, lane = dispatcher()
    go, log = asyncio.Event(), []
    first, second, third = (asyncio.create_task(hold(d, go, log, i)) for i in range(3))
    await settle()
    if cancel_first:
        second.cancel()
        first.cancel()
    else:
        go.set()
        await asyncio.sleep(0)
        second.cancel()
    await settle()
    go.set()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert log[-1] == 2
    assert lane.in_flight == 0
    assert not d.queues["m"].seats


async def test_those_who_wait_for_a_lane_that_goes_are_told() -> None:
    d, lane = dispatcher()
    go, log = asyncio.Event(), []
    holder, waiter = (asyncio.create_task(hold(d, go, log, i)) for i in range(2))
    await settle()
    d.set_ready("m", "a", False)
    with pytest.raises(NoAvailableWorker):
        await waiter
    go.set()
    await holder
    assert lane.in_flight == 0
