"""Rings, samples, percentiles, pictures: the arithmetic of the meters on a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.lane_slots import Measured
from services.gateway.outcome import Ending, Outcome
from services.gateway.pictures import Pictures
from services.gateway.ring import HOUR_S, Ring, Samples, percentile
from services.wire.shapes import ImageUsage, TokenUsage


def test_worked_number_of_spread() -> None:
    ring = Ring()
    ring.spread(10, 1000.5, 1002.5, 1002.5)
    assert [ring.total(n, 1002.5) for n in (1, 2, 3)] == [2.5, 7.5, 10.0]


def test_windows_forget() -> None:
    ring = Ring()
    ring.slots[ring.row(5000.0)] += 5
    assert [ring.total(w, 5009.9) for w in (9, 10, 60)] == [0, 5, 5]
    assert ring.total(HOUR_S, 5000 + HOUR_S - 1) == 5
    assert ring.total(HOUR_S, 5000 + HOUR_S) == 0
    assert ring.total(HOUR_S, 5000 + 100 * HOUR_S) == 0


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 100), st.floats(0, 50)), max_size=20))
def test_nothing_is_lost_in_spreading(parts: list[tuple[float, float, float]]) -> None:
    ring, now = Ring(), 10_000.0
    for value, length, step in parts:
        now += step
        ring.spread(value, now - length, now, now)
    assert ring.total(HOUR_S, now) == pytest.approx(sum(value for value, _, _ in parts))


def test_percentiles() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([1, 2, 3, 4], 0.95) == 4
    assert percentile([7], 0.05) == 7
    assert percentile([], 0.5) is None
    samples = Samples()
    for at in range(10):
        samples.add(at * 10.0, float(at))
    assert samples.since(6.5) == [70, 80, 90]


def outcome(**more) -> Outcome:
    made = Outcome("id", "ours", "/v1/chat/completions", 100.0)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_times_of_an_outcome() -> None:
    """Arrived at 100, seat at 100.5, first token at 101, last at 102, 21 tokens: TTFT 1 s, TPOT 0.05 s."""
    stream = outcome(seated_s=100.5, first_s=101.0, last_s=102.0, ended_s=102.1, tokens=TokenUsage(5, 21), ending=Ending.SERVED)
    assert (stream.ttft_s, stream.tpot_s, stream.unit_s) == (1.0, 0.05, 0.05)
    whole = outcome(seated_s=100.0, ended_s=102.0, tokens=TokenUsage(5, 20), ending=Ending.SERVED)
    assert (whole.ttft_s, whole.tpot_s, whole.unit_s) == (None, None, 2.0 / 20.1)
    whole.tokens = TokenUsage(50, 19)
    assert whole.unit_s == 0.1, "the worked number: a prompt token counts a fiftieth"
    stream.sequences, stream.tokens = 2, TokenUsage(5, 42)
    assert stream.unit_s == 0.05, "42 tokens of two answers at once are 21 steps"
    stream.first_s = stream.last_s
    assert stream.unit_s == pytest.approx(1.6 / 21.1), "a stream that came in one piece"
    images = outcome(seated_s=100.0, ended_s=103.0, images=ImageUsage(2, 40), ending=Ending.SERVED)
    assert images.unit_s == 1.5


def test_what_a_lane_learns_of_an_outcome() -> None:
    stream = outcome(seated_s=100.5, first_s=101.0, last_s=102.0, ended_s=102.5, tokens=TokenUsage(5, 21), ending=Ending.SERVED, level=3)
    assert stream.measured() == Measured(unit_s=0.05, level=3, seat_s=2.0, first_s=0.5, prompt_tokens=5)
    images = outcome(seated_s=100.0, ended_s=103.0, images=ImageUsage(2, 40), ending=Ending.SERVED)
    assert images.measured() == Measured(1.5, 1, 3.0)
    assert outcome(ending=Ending.SERVED).measured() is None


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.CLIENT_GONE, Ending.DRAINED, Ending.REFUSED])
def test_nothing_is_learned_from_what_did_not_end_well(ending: Ending) -> None:
    assert outcome(seated_s=100.0, ended_s=102.0, tokens=TokenUsage(5, 20), ending=ending).measured() is None


def test_one_token_has_no_tpot() -> None:
    assert outcome(first_s=101.0, last_s=101.0, tokens=TokenUsage(5, 1)).tpot_s is None


def test_pictures_end_by_time_and_by_size() -> None:
    now = [0.0]
    pictures = Pictures(limit_bytes=100, keep_s=10, clock=lambda: now[0])
    first, second = pictures.keep(b"a" * 60, None), pictures.keep(b"b" * 40, None)
    assert pictures.get(first, None) == b"a" * 60
    third = pictures.keep(b"c", None)
    assert pictures.get(first, None) is None, "the oldest goes when there are too many bytes"
    assert pictures.get(second, None) == b"b" * 40
    now[0] = 10.5
    assert pictures.get(second, None) is None
    assert pictures.get(third, None) is None
    assert pictures.get(pictures.keep(b"x" * 1000, None), None) is None, "one that is too large alone is not kept"
    assert pictures._size == 0
