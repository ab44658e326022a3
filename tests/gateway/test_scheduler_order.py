"""Who is next of those who wait, who passes on a slow card, who is refused, and how text and images share a card."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from services.gateway.card_share import share_cards
from services.gateway.lane_slots import Measured
from services.gateway.scheduler import PASS_S, Lane, ModelQueue, Need, QueueIsFull, Seat, Ticket
from services.gateway.tickets import BATCH, queue_limit_s
from services.gateway.waiting_line import PRIORITY_TURNS, WaitingLine


def queue(*lanes: Lane, limit: int = 100) -> ModelQueue:
    for lane in lanes:
        lane.ready = True
    return ModelQueue(limit, list(lanes))


def taken(q: ModelQueue, ticket: Ticket | None = None, now: float = 0.0) -> Seat:
    seat = q.request(ticket or Ticket(Need()), now)
    assert seat is not None
    return seat


def served_order(q: ModelQueue, seat: Seat, count: int) -> list[Ticket]:
    order = []
    for now in range(count):
        (seat,) = q.give_back(seat, now).granted
        order.append(seat.ticket)
    return order


def test_keys_take_turns() -> None:
    q = queue(Lane("a", 1))
    seat = taken(q)
    greedy = [Ticket(Need(), key="greedy") for _ in range(6)]
    modest = [Ticket(Need(), key="modest") for _ in range(2)]
    for ticket in (*greedy, *modest):
        q.request(ticket, 0)
    assert [t.key for t in served_order(q, seat, 8)][:4] == ["greedy", "modest", "greedy", "modest"]


def test_a_dear_request_takes_more_of_its_keys_turns() -> None:
    q = queue(Lane("a", 1))
    seat = taken(q)
    for ticket in [Ticket(Need(), key="dear", cost=3.0) for _ in range(3)] + [Ticket(Need(), key="cheap") for _ in range(6)]:
        q.request(ticket, 0)
    assert Counter(t.key for t in served_order(q, seat, 6)) == {"cheap": 4, "dear": 2}


def test_a_key_has_at_most_half_of_the_queue() -> None:
    q = queue(Lane("a", 1), limit=4)
    taken(q)
    q.request(Ticket(Need(), key="greedy"), 0)
    q.request(Ticket(Need(), key="greedy"), 0)
    with pytest.raises(QueueIsFull):
        q.request(Ticket(Need(), key="greedy"), 0)
    assert q.request(Ticket(Need(), key="modest"), 0) is None


def test_interactive_goes_before_batch() -> None:
    q = queue(Lane("a", 1))
    seat = taken(q)
    batch, chat = Ticket(Need(), priority=BATCH), Ticket(Need())
    q.request(batch, 0)
    q.request(chat, 0)
    assert served_order(q, seat, 2) == [chat, batch]


@pytest.mark.parametrize("new_keys", [False, True])
def test_batch_does_not_starve(new_keys: bool) -> None:
    """An endless stream of chats, even each of a new key: the batch request is served in the end."""
    line = WaitingLine()
    batch = Ticket(Need(), priority=BATCH, key="batch")
    line.enter(batch, 0)
    turns = 0
    while batch in list(line):
        turns += 1
        assert turns < 3 * PRIORITY_TURNS
        line.enter(Ticket(Need(), key=f"chat {turns if new_keys else 0}"), turns)
        line.serve(line.places[0])
    assert turns > PRIORITY_TURNS / 2, "but chats go first for a while"


def test_a_cancelled_ticket_gives_its_turn_back() -> None:
    line = WaitingLine()
    stays = Ticket(Need(), key="b")
    line.enter(stays, 0)
    for _ in range(5):
        leaver = Ticket(Need(), key="a")
        line.enter(leaver, 0)
        line.drop(leaver)
    again = Ticket(Need(), key="a")
    line.enter(again, 0)
    assert line.places[1].start == line.places[0].start == 0


def test_a_line_that_never_empties_forgets_keys() -> None:
    line = WaitingLine()
    for number in range(5000):
        line.enter(Ticket(Need(), key=str(number)), 0)
        if len(line) > 3:
            line.serve(line.places[0])
    assert len(line._end_of) < 200


def test_those_at_the_front_come_last_in_first_out() -> None:
    line = WaitingLine()
    usual, first, second = Ticket(Need()), Ticket(Need()), Ticket(Need())
    line.enter(usual, 0)
    line.enter(first, 0, front=True)
    line.enter(second, 0, front=True)
    assert list(line) == [second, first, usual]


def test_a_hopeless_wait_is_refused_at_once() -> None:
    q = queue(Lane("a", 2))
    q.service_s = 3.0
    taken(q)
    taken(q)
    with pytest.raises(QueueIsFull) as full:
        q.request(Ticket(Need(), queue_s=1.0), 0)
    assert full.value.too_late
    assert full.value.wait_s == 1.5
    assert q.request(Ticket(Need(), queue_s=2.0), 0) is None
    assert q.request(Ticket(Need(), queue_s=1.0), 0, again=True) is None, "who had a seat is not refused"


def test_its_own_turn_counts_not_the_length_of_the_line() -> None:
    q = queue(Lane("a", 1))
    q.service_s = 1.0
    taken(q)
    for _ in range(9):
        q.request(Ticket(Need(), key="greedy"), 0)
    assert q.expected_wait_s(0) == 10.0
    assert q.expected_wait_s(0, Ticket(Need(), key="modest")) == 2.0
    assert q.expected_wait_s(0, Ticket(Need(), key="greedy")) == 10.0


def test_worked_number_of_the_queue_limit() -> None:
    assert queue_limit_s(2.0, 0.4) == pytest.approx(1.5)
    assert queue_limit_s(2.0, None) == pytest.approx(1.9)
    assert queue_limit_s(2.0, 60.0) == pytest.approx(0.2)


def test_worked_number_of_prefill() -> None:
    two, one = Lane("two", 2), Lane("one", 1)
    q = queue(two, one)
    assert q.prefill_s(1000) is None
    two.measured(Measured(0.01, 1, 1.0, 0.01 + 0.1, 1000))
    one.measured(Measured(0.01, 1, 1.0, 0.01 + 0.4, 1000))
    assert q.prefill_s(1000) == pytest.approx(0.133, abs=1e-3)


def test_worked_number_of_passing_on_a_slow_card() -> None:
    fast = [Lane(f"fast {i}", 8, 0.01, in_flight=8) for i in range(2)]
    q = queue(*fast, Lane("slow", 1, 0.1))
    q.units = 50.0
    ticket = Ticket(Need())
    assert q.pick(ticket, ahead=3) is None
    slow = q.pick(ticket, ahead=9)
    assert slow is not None, "10 / 32 s is too long a wait"
    assert slow.id == "slow"
    assert q.pick(ticket, waited_s=PASS_S, ahead=0) is slow, "it has waited enough"
    q.units = None
    assert q.pick(ticket, ahead=0) is slow, "nothing is known of the wait"


def test_who_passed_takes_the_slow_card_in_the_end() -> None:
    fast, slow = Lane("fast", 8, 0.01), Lane("slow", 1, 0.1)
    q = queue(fast, slow)
    q.units = 50.0
    for _ in range(8):
        taken(q)
    assert q.request(Ticket(Need()), 0) is None
    assert q.someone_passes
    assert q.look_again(0.1).granted == ()
    (seat,) = q.look_again(PASS_S).granted
    assert seat.lane is slow
    assert not q.someone_passes


def test_a_known_prefix_decides_among_lanes_that_are_about_equal() -> None:
    a, b, slow = Lane("a", 4, 0.0100), Lane("b", 4, 0.0105), Lane("slow", 4, 0.0200)
    b.remember(7)
    slow.remember(8)
    q = queue(a, b, slow)
    assert q.pick(Ticket(Need(), prefix=7)) is b
    assert q.pick(Ticket(Need(), prefix=8)) is a, "not worth a card of half the speed"
    assert q.pick(Ticket(Need())) is a
    taken(q, Ticket(Need(), prefix=9))
    assert a.knows(9)


def shared(text_slots: int = 8) -> tuple[ModelQueue, ModelQueue, Lane, Lane]:
    text, image = Lane("text", text_slots, 0.01), Lane("image", 1, 5.0)
    of_text, of_images = queue(text), queue(image)
    share_cards([("card", "text", text, of_text), ("card", "image", image, of_images), ("other", "text", Lane("x", 1), of_text)])
    return of_text, of_images, text, image


def test_an_image_starts_beside_half_the_text() -> None:
    of_text, of_images, text, image = shared()
    seats = [taken(of_text) for _ in range(8)]
    picture = Ticket(Need())
    assert of_images.request(picture, 0) is None
    for _ in range(3):
        of_text.give_back(seats.pop(), 1)
    assert of_text.request(Ticket(Need()), 1) is None, "5 run, 4 are left to text while an image waits"
    assert of_images.look_again(1).granted == ()
    assert of_text.give_back(seats.pop(), 2).granted == ()
    (seat,) = of_images.look_again(2).granted
    assert (seat.ticket, text.in_flight, image.in_flight) == (picture, 4, 1)
    assert len(of_text.give_back(seats.pop(), 3).granted) == 1, "text goes on in its half"
    assert of_text.request(Ticket(Need()), 3) is None
    of_images.give_back(seat, 4)
    assert len(of_text.look_again(4).granted) == 1, "the whole card again"


def test_one_text_slot_stays_open_beside_images() -> None:
    of_text, of_images, _, _ = shared(text_slots=1)
    taken(of_images)
    taken(of_text)


def test_cards_of_one_kind_share_nothing() -> None:
    lane = Lane("a", 1)
    assert share_cards([("card", "text", lane, queue(lane)), (None, "image", lane, queue(lane))]) == []
    assert lane.share is None


def test_random_work_keeps_shared_cards_within_the_rule() -> None:
    """Whatever comes and ends: no slot is overdrawn, and nobody is left waiting when all is idle."""
    dice = random.Random(1)
    of_text, of_images, text, image = shared()
    held: list[tuple[ModelQueue, Seat]] = []
    for now in range(3000):
        q = dice.choice((of_text, of_text, of_images))
        if dice.random() < 0.5 and len(q.waiting) < 20:
            seat = q.request(Ticket(Need()), now)
            held += [(q, seat)] if seat else []
        elif held:
            q, seat = held.pop(dice.randrange(len(held)))
            held += [(q, new) for new in q.give_back(seat, now).granted]
        for mate in (of_text, of_images):
            held += [(mate, new) for new in mate.look_again(now).granted]
        assert text.in_flight <= 8
        assert image.in_flight <= 1
        assert held or not (of_text.waiting or of_images.waiting)
