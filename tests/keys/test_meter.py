"""What a key has left, minute by minute: pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.keys.key import Limit, Limits
from services.keys.meter import Meter, Over

NOON = 43200.0


def meter(*limits: Limit, concurrency: int | None = None) -> Meter:
    return Meter(Limits(limits, concurrency))


def test_worked_example() -> None:
    one = meter(Limit("requests", "minute", 60))
    assert [one.take(NOON) for _ in range(60)] == [None] * 60
    assert one.take(NOON + 48) == Over("requests", "minute", 60, 60, 12.0)
    assert one.take(NOON + 60) is None, "the next minute"


def test_without_limits_nothing_is_refused() -> None:
    one = meter()
    assert all(one.take(NOON) is None for _ in range(1000))
    assert one.in_flight == 1000


def test_requests_under_way() -> None:
    one = meter(concurrency=2)
    assert one.take(NOON) is None
    assert one.take(NOON) is None
    assert one.take(NOON) == Over("concurrency", None, 2, 2, None)
    one.finished(NOON, 5)
    assert one.take(NOON) is None


def test_tokens_count_when_the_answer_has_ended() -> None:
    one = meter(Limit("tokens", "day", 100))
    assert one.take(NOON) is None
    one.finished(NOON, 150)
    over = one.take(NOON)
    assert over is not None
    assert (over.used, over.wait_s) == (150, 43200.0)
    assert one.take(NOON + 43200) is None


def test_images_count_before_and_come_back() -> None:
    one = meter(Limit("images", "hour", 4))
    assert one.take(NOON, 3) is None
    over = one.take(NOON, 2)
    assert over is not None, "3 + 2 > 4"
    assert over.used == 3
    one.finished(NOON, 0, images_not_made=3)
    assert one.take(NOON, 4) is None
    assert one.take(NOON, 0) is None, "a text request needs no image"


def test_a_limit_of_nothing() -> None:
    assert meter(Limit("requests", "minute", 0)).take(NOON) is not None
    assert meter(Limit("images", "minute", 0)).take(NOON, 1) is not None


def test_undo() -> None:
    one = meter(Limit("requests", "minute", 1), Limit("images", "minute", 1))
    assert one.take(NOON, 1) is None
    one.undo(NOON, 1)
    assert one.take(NOON, 1) is None
    assert one.in_flight == 1


def test_new_limits_keep_what_was_counted() -> None:
    one = meter(Limit("requests", "minute", 10))
    for _ in range(5):
        one.take(NOON)
    one.set_limits(Limits((Limit("requests", "minute", 5), Limit("tokens", "day", 10))))
    assert one.take(NOON) is not None
    one.set_limits(Limits())
    assert one.take(NOON) is None


def test_a_restart_gives_no_second_day() -> None:
    one = meter(Limit("tokens", "day", 100), Limit("requests", "minute", 10))
    one.seed(NOON, {"tokens": 100, "requests": 1000})
    over = one.take(NOON)
    assert over is not None
    assert over.unit == "tokens"
    one.seed(NOON, {"tokens": 50})
    assert one.take(NOON) is not None, "what is counted here is the newer"


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(0, 3), st.booleans()), max_size=60))
def test_never_more_than_the_limit_in_one_minute(steps: list[tuple[float, int, bool]]) -> None:
    one, now, made = meter(Limit("requests", "minute", 5), Limit("images", "minute", 4)), 0.0, {}
    for pause, images, ends in steps:
        now += pause
        if one.take(now, images) is None:
            requests, sum_images = made.get(now // 60, (0, 0))
            made[now // 60] = (requests + 1, sum_images + images)
            if ends:
                one.finished(now, 10)
    assert all(requests <= 5 and images <= 4 for requests, images in made.values())
    assert one.in_flight >= 0
