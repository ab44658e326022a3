"""What the queue is told of a request for text."""

from __future__ import annotations

import json

import pytest

from services.gateway.scheduler import Need
from services.gateway.text_request import TextRequest, read_text_request
from services.gateway.text_ticket import MOST_CHARS, prefix_of, text_ticket
from services.wire.errors import InvalidValue

LONG = "You are a patient teacher. " * 50


def asked(*messages: tuple[str, object], **more: object) -> TextRequest:
    body = {"model": "m", "messages": [{"role": role, "content": content} for role, content in messages], **more}
    return read_text_request("/v1/chat/completions", json.dumps(body).encode())


def completion(prompt: object) -> TextRequest:
    return read_text_request("/v1/completions", json.dumps({"model": "m", "prompt": prompt}).encode())


def test_whose_how_urgent_and_how_many() -> None:
    ticket = text_ticket(asked(("user", "hi"), n=3, priority=1), Need(tokens=9), "key-1", frozenset("a"), 1.5)
    assert (ticket.need, ticket.avoid, ticket.priority, ticket.key, ticket.cost, ticket.queue_s) == (
        Need(tokens=9), frozenset("a"), 1, "key-1", 3, 1.5)  # fmt: skip
    usual = text_ticket(asked(("user", "hi")), Need(), None)
    assert (usual.priority, usual.key, usual.cost, usual.queue_s, usual.prefix) == (0, None, 1, None, None), "short prompts have no prefix"


@pytest.mark.parametrize("bad", [-1, 10, 1.5, "1", True])
def test_nobody_goes_before_the_interactive(bad: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        asked(("user", "hi"), priority=bad)
    assert refused.value.param == "priority"


def test_the_priority_stays_here() -> None:
    request = asked(("user", "hi"), priority=0)
    assert request.dropped == ()
    assert json.loads(request.for_engine("m")) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_turns_of_a_conversation_begin_alike() -> None:
    first = asked(("system", "short"), ("user", LONG[:600]))
    later = asked(("system", "short"), ("user", LONG[:600]), ("assistant", "yes"), ("user", "and then?"), temperature=0.5)
    other = asked(("system", "short"), ("user", "something else " + LONG))
    assert text_ticket(first, Need(), "k").prefix == text_ticket(later, Need(), "k").prefix is not None
    assert text_ticket(first, Need(), "k").prefix != text_ticket(other, Need(), "k").prefix


def test_a_long_instruction_is_shared_by_what_follows_it() -> None:
    assert len(LONG) > MOST_CHARS
    assert prefix_of(asked(("system", LONG), ("user", "a")), "k") == prefix_of(asked(("system", LONG), ("user", "b")), "k")
    parts = [{"type": "text", "text": LONG}]
    assert prefix_of(asked(("user", parts)), "k") == prefix_of(asked(("user", LONG)), "k")


def test_another_key_begins_elsewhere() -> None:
    """Else the waiting time of one key's request would tell that another key has asked the same."""
    for request in (asked(("user", LONG)), completion(LONG), completion([1, 2, 3])):
        numbers = {prefix_of(request, key) for key in ("key-1", "key-2", None)}
        assert len(numbers) == 3
        assert None not in numbers


def test_prompts_without_one_beginning() -> None:
    assert prefix_of(completion([LONG, "another"]), "k") is None
    assert prefix_of(completion([[1, 2], [3]]), "k") is None
    assert prefix_of(completion(LONG), "k") == prefix_of(completion(LONG + "more"), "k")
    assert prefix_of(asked(("user", "")), "k") is None
