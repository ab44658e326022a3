"""Idempotency-Key: one execution, whatever a client sends."""

from __future__ import annotations

import pytest

from services.gateway.once import KEPT_S, MOST, Once
from services.wire.errors import IdempotencyConflict, InvalidValue


def test_while_it_runs_after_it_was_served_and_long_after() -> None:
    once = Once()
    key = once.take("k", "a", 0.0)
    assert key is not None
    with pytest.raises(IdempotencyConflict) as running:
        once.take("k", "a", 1.0)
    assert running.value.headers() == {"retry-after": "1"}
    once.end(key, True, 2.0)
    with pytest.raises(IdempotencyConflict) as answered:
        once.take("k", "a", 2.0 + KEPT_S - 1)
    assert answered.value.headers() == {"x-should-retry": "false"}
    assert once.take("k", "a", 2.0 + KEPT_S) == key


def test_what_was_not_served_may_be_sent_again() -> None:
    once = Once()
    key = once.take(None, "a", 0.0)
    assert key is not None
    once.end(key, False, 1.0)
    assert once.take(None, "a", 1.0) == key


def test_keys_of_others_are_others() -> None:
    once = Once()
    assert once.take("k", "a", 0.0) != once.take("l", "a", 0.0)
    assert once.take("k", None, 0.0) is None


def test_it_is_bounded() -> None:
    once = Once()
    for i in range(MOST + 10):
        once.take(None, str(i), 0.0)
    assert len(once) == MOST


@pytest.mark.parametrize("given", ["", "x" * 256, "a\tb"])
def test_keys_that_are_none(given: str) -> None:
    with pytest.raises(InvalidValue):
        Once().take(None, given, 0.0)
