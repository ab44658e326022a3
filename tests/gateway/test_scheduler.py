"""Who gets the next seat, driven by hand: no clock, no task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.scheduler import PASS_S, Lane, ModelQueue, Need, NobodyServes, QueueIsFull, Seat, Ticket


def queue(*lanes: Lane, limit: int = 10) -> ModelQueue:
    for lane in lanes:
        lane.ready = True
    return ModelQueue(limit, list(lanes))


def seat_of(q: ModelQueue, ticket: Ticket | None = None, now: float = 0.0) -> Seat:
    seat = q.request(ticket or Ticket(Need()), now)
    assert seat is not None
    return seat


def test_worked_number_of_pick() -> None:
    busy, empty, slow = Lane("busy", 4, 0.020, in_flight=3), Lane("empty", 4, 0.022), Lane("slow", 4, 0.030)
    assert queue(busy, empty).pick(Ticket(Need())) is empty
    assert queue(busy, slow).pick(Ticket(Need())) is busy


def test_the_fastest_is_filled_first() -> None:
    fast, slow = Lane("fast", 4, 0.01), Lane("slow", 4, 0.02)
    q = queue(slow, fast)
    for _ in range(6):
        seat_of(q)
    assert (fast.in_flight, slow.in_flight) == (4, 2)


def test_lanes_that_are_alike_share_the_load() -> None:
    a, b = Lane("a", 8, 0.0100), Lane("b", 8, 0.0101)
    q = queue(a, b)
    for _ in range(8):
        seat_of(q)
    assert (a.in_flight, b.in_flight) == (4, 4)


def test_equal_lanes_take_turns() -> None:
    a, b = Lane("a", 1), Lane("b", 1)
    q = queue(a, b)
    order = []
    for _ in range(4):
        seat = seat_of(q)
        order.append(seat.lane.id)
        q.give_back(seat, 0.0)
    assert order == ["a", "b", "a", "b"]


def test_an_unmeasured_lane_gets_its_chance() -> None:
    known, new = Lane("known", 4, 0.05, taken=5), Lane("new", 4)
    assert queue(known, new).pick(Ticket(Need())) is new


def test_first_come_first_served() -> None:
    q = queue(Lane("a", 1))
    first = seat_of(q)
    second, third = Ticket(Need()), Ticket(Need())
    assert q.request(second, 0) is None
    assert q.request(third, 0) is None
    granted = q.give_back(first, 1.0).granted
    assert [seat.ticket for seat in granted] == [second]
    assert list(q.waiting) == [third]


def test_a_retry_waits_at_the_front_even_of_a_full_queue() -> None:
    q = queue(Lane("a", 1), limit=1)
    seat = seat_of(q)
    waiting, again = Ticket(Need()), Ticket(Need())
    q.request(waiting, 0)
    with pytest.raises(QueueIsFull):
        q.request(Ticket(Need()), 0)
    assert q.request(again, 0, again=True) is None
    assert [s.ticket for s in q.give_back(seat, 1).granted] == [again]


def test_a_cancelled_ticket_gets_nothing() -> None:
    q = queue(Lane("a", 1))
    seat = seat_of(q)
    leaver, stayer = Ticket(Need()), Ticket(Need())
    q.request(leaver, 0)
    q.request(stayer, 0)
    q.cancel(leaver)
    q.cancel(leaver)
    assert [s.ticket for s in q.give_back(seat, 1).granted] == [stayer]


def test_need_and_avoid() -> None:
    small, large = Lane("small", 4, context_tokens=100), Lane("large", 4, context_tokens=1000)
    q = queue(small, large)
    assert q.pick(Ticket(Need(tokens=500))) is large
    assert q.pick(Ticket(Need(tokens=500), frozenset({"large"}))) is None
    assert not q.can_serve(Ticket(Need(tokens=500), frozenset({"large"})))
    assert not q.can_serve(Ticket(Need(tokens=2000)))
    image = queue(Lane("i", 1, width_px=64, height_px=32))
    assert image.can_serve(Ticket(Need(width_px=64, height_px=32)))
    assert not image.can_serve(Ticket(Need(width_px=32, height_px=64)))


def test_one_that_needs_more_does_not_block_those_behind_it() -> None:
    small, large = Lane("small", 1, context_tokens=100), Lane("large", 1, context_tokens=1000)
    q = queue(small, large)
    on_large, on_small = seat_of(q, Ticket(Need(tokens=500))), seat_of(q, Ticket(Need(tokens=50)))
    long, short = Ticket(Need(tokens=500)), Ticket(Need(tokens=50))
    q.request(long, 0)
    q.request(short, 0)
    assert [s.ticket for s in q.give_back(on_small, 1).granted] == [short]
    assert [s.ticket for s in q.give_back(on_large, 1).granted] == [long]


def test_lanes_that_go_and_come() -> None:
    a, b = Lane("a", 1), Lane("b", 1, context_tokens=10)
    q = queue(a, b)
    first, second = seat_of(q), seat_of(q)
    short, long = Ticket(Need(tokens=5)), Ticket(Need(tokens=50))
    q.request(short, 0)
    q.request(long, 0)
    changes = q.set_ready(a, False, 1)
    assert changes.orphaned == (long,), "only b is left, and it is too small"
    assert list(q.waiting) == [short]
    assert q.set_ready(b, False, 2).orphaned == (short,)
    with pytest.raises(NobodyServes):
        q.request(Ticket(Need()), 2)
    q.give_back(first, 3)
    q.give_back(second, 3)
    q.set_ready(a, True, 4)
    assert seat_of(q).lane is a


def test_a_second_attempt_does_not_wait_for_lanes_that_are_gone() -> None:
    """The lane that failed it may be well by now; the one that it could have gone to went away before it asked."""
    a, b = Lane("a", 1), Lane("b", 1)
    q = queue(a, b)
    retried = Ticket(Need(), avoid=frozenset("a"))
    q.set_ready(b, False, 0)
    with pytest.raises(NobodyServes):
        q.request(retried, 0, again=True)
    assert not q.waiting
    q.set_ready(b, True, 1)
    seat = q.request(retried, 1, again=True)
    assert seat is not None
    assert seat.lane is b


def test_a_seat_at_once_or_none() -> None:
    q = queue(Lane("a", 1), limit=5)
    seat = q.at_once(Ticket(Need()), 0)
    assert seat is not None
    assert q.at_once(Ticket(Need()), 0) is None
    assert not q.waiting, "it did not enter the line"
    q.request(Ticket(Need()), 0)
    q.lanes.append(Lane("b", 1, ready=True))
    assert q.at_once(Ticket(Need()), 0) is None, "somebody is before it"


def test_worked_number_of_expected_wait() -> None:
    q = queue(Lane("a", 2))
    q.service_s = 3.0
    for _ in range(9):
        q.request(Ticket(Need()), 0)
    assert len(q.waiting) == 7
    assert q.expected_wait_s(0) == 12.0


def test_expected_wait_before_anything_has_ended() -> None:
    q = queue(Lane("a", 2))
    assert q.expected_wait_s(0) is None
    seat_of(q, now=10)
    seat_of(q, now=14)
    assert q.expected_wait_s(16) == 1 * 6 / 2
    assert queue().expected_wait_s(0) is None


def test_only_served_requests_count_as_service_time() -> None:
    q = queue(Lane("a", 1))
    q.give_back(seat_of(q, now=0), 100.0, served=False)
    assert q.service_s is None
    q.give_back(seat_of(q, now=0), 2.0)
    assert q.service_s == 2.0


def test_learning() -> None:
    lane = Lane("a", 1)
    lane.learn(1.0)
    lane.learn(2.0)
    assert lane.unit_s == pytest.approx(1.2)


@given(st.lists(st.tuples(st.sampled_from(["request", "back", "cancel", "down", "up"]), st.integers(0, 5)), max_size=60))
def test_seats_and_tickets_always_add_up(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: no seat is given twice, none is lost, no slot is overdrawn, and nobody passes on a free slow lane
    for longer than PASS_S."""
    lanes = [Lane("a", 1), Lane("b", 2, 0.1), Lane("c", 1, 0.2)]
    q = queue(*lanes, limit=3)
    held: list[Seat] = []
    asked = refused = cancelled = orphaned = returned = 0
    for now, (step, which) in enumerate(steps):
        granted: tuple[Seat, ...] = ()
        if step == "request":
            asked += 1
            try:
                seat = q.request(Ticket(Need()), now)
                granted = (seat,) if seat else ()
            except QueueIsFull:
                refused += 1
            except NobodyServes:
                assert not any(lane.ready for lane in lanes)
                refused += 1
        elif step == "back" and held:
            returned += 1
            granted = q.give_back(held.pop(which % len(held)), now).granted
        elif step == "cancel" and q.waiting:
            cancelled += 1
            q.cancel(list(q.waiting)[which % len(q.waiting)])
        elif step in ("down", "up"):
            changes = q.set_ready(lanes[which % 3], step == "up", now)
            granted, orphaned = changes.granted, orphaned + len(changes.orphaned)
        held.extend(granted)
        if q.someone_passes:
            held.extend(q.look_again(now + PASS_S).granted)
        assert set(held) == q.seats
        assert all(0 <= lane.in_flight <= lane.slots for lane in lanes)
        assert sum(lane.in_flight for lane in lanes) == len(held)
        assert asked == refused + cancelled + orphaned + returned + len(held) + len(q.waiting)
        assert not any(lane.ready and lane.in_flight < lane.slots for lane in lanes) or not q.waiting, "a free slot and someone waiting"
        assert all(q.can_serve(ticket) for ticket in q.waiting), "nobody waits for nothing"
