"""Seats for coroutines: given, waited for, given back, in every ending."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.card_share import share_cards
from services.gateway.dispatch import Dispatcher
from services.gateway.lane_slots import START_SLOTS, Measured
from services.gateway.scheduler import PASS_S, Lane, ModelQueue, Need, Ticket
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


async def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    d, lane = dispatcher()
    d.queues["m"].service_s = 3.0
    async with d.seat("m", Ticket(Need()), 1):
        with pytest.raises(QueueFull) as full:
            async with d.seat("m", Ticket(Need(), queue_s=0.5), 30):
                pass
    assert full.value.retry_after_s == 3.0
    assert "about 3.0 s, later than the 0.5 s" in full.value.message
    assert lane.in_flight == 0


async def test_who_finds_no_lane_left_is_told_at_once() -> None:
    """An engine died, and before the second attempt asked for a seat, the other one went away too: nothing to wait for."""
    one, two = Lane("one", 1, ready=True), Lane("two", 1, ready=True)
    d = Dispatcher({"m": ModelQueue(5, [one, two])})
    d.set_ready("m", "two", False)
    with pytest.raises(NoAvailableWorker) as gone:
        async with asyncio.timeout(1), d.seat("m", Ticket(Need(), avoid=frozenset(("one",))), 30, again=True):
            pass
    assert gone.value.retry_after_s == 5.0
    assert d._futures == {}


async def test_slots_that_were_learned_are_given_to_those_who_wait() -> None:
    lane = Lane("a", None, ready=True)
    d = Dispatcher({"m": ModelQueue(50, [lane])})
    go, log = asyncio.Event(), []
    tasks = [asyncio.create_task(hold(d, go, log, i)) for i in range(START_SLOTS + 3)]
    await settle()
    assert len(log) == START_SLOTS
    while not lane.measured(Measured(0.01, START_SLOTS, 0.5, 0.01)):
        assert lane.slots == START_SLOTS
    d.slots_grew("m")
    await settle()
    assert len(log) == min(lane.slots, START_SLOTS + 3) > START_SLOTS
    go.set()
    await asyncio.gather(*tasks)
    assert lane.in_flight == 0


async def test_an_image_that_no_longer_waits_gives_the_card_back_to_text() -> None:
    text, image = Lane("text", 4, ready=True), Lane("image", 1, ready=True)
    queues = {"t": ModelQueue(9, [text]), "i": ModelQueue(9, [image])}
    share_cards([("card", "text", text, queues["t"]), ("card", "image", image, queues["i"])])
    d, go, log = Dispatcher(queues), asyncio.Event(), []

    async def ask(model: str) -> None:
        async with d.seat(model, Ticket(Need()), 5):
            log.append(model)
            await go.wait()

    tasks = [asyncio.create_task(ask("t")) for _ in range(3)]
    await settle()
    picture = asyncio.create_task(ask("i"))
    await settle()
    tasks.append(asyncio.create_task(ask("t")))
    await settle()
    assert log == ["t"] * 3, "the image waits until 2 are left, and no new text begins"
    picture.cancel()
    await settle()
    assert log == ["t"] * 4, "its client has left"
    go.set()
    await asyncio.gather(*tasks)


async def test_who_passed_on_a_slow_card_is_looked_at_again() -> None:
    """The fast card stays busy, so after a moment the slow one will do."""
    fast, slow = Lane("fast", 8, 0.01, ready=True), Lane("slow", 1, 0.1, ready=True)
    queue = ModelQueue(20, [fast, slow], units=50.0)
    d = Dispatcher({"m": queue})
    go, log = asyncio.Event(), []
    tasks = [asyncio.create_task(hold(d, go, log, i)) for i in range(9)]
    await settle()
    assert (fast.in_flight, slow.in_flight, len(queue.waiting)) == (8, 0, 1)
    await asyncio.sleep(PASS_S + 0.1)
    assert (slow.in_flight, len(queue.waiting)) == (1, 0)
    go.set()
    await asyncio.gather(*tasks)


async def test_text_that_ends_lets_a_waiting_image_start() -> None:
    text, image = Lane("text", 4, 0.01, ready=True), Lane("image", 1, 5.0, ready=True)
    of_text, of_images = ModelQueue(9, [text]), ModelQueue(9, [image])
    share_cards([("card", "text", text, of_text), ("card", "image", image, of_images)])
    d = Dispatcher({"m": of_text, "pictures": of_images})
    go, log = asyncio.Event(), []
    tasks = [asyncio.create_task(hold(d, go, log, i)) for i in range(4)]
    await settle()

    async def picture() -> None:
        async with d.seat("pictures", Ticket(Need()), 5):
            log.append(99)

    drawn = asyncio.create_task(picture())
    await settle()
    assert 99 not in log
    go.set()
    await asyncio.gather(*tasks, drawn)
    assert 99 in log
    assert (text.in_flight, image.in_flight) == (0, 0)
