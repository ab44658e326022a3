"""The error tree against what its docstring says and what the SDKs need."""

from __future__ import annotations

import re

from services.wire import errors
from services.wire.errors import ApiError


def subclasses(kind: type[ApiError]) -> list[type[ApiError]]:
    return [c for child in kind.__subclasses__() for c in (child, *subclasses(child))]


def test_docstring_is_the_tree() -> None:
    assert errors.__doc__
    said = {m[1]: (int(m[2]), m[3]) for m in re.finditer(r"─ (\w+)\s+(\d{3})\s+(\w+)", errors.__doc__)}
    assert said == {c.__name__: (c.status, c.code) for c in subclasses(ApiError)}


def test_codes_are_unique_and_no_client_error_is_retried() -> None:
    kinds = subclasses(ApiError)
    assert len({c.code for c in kinds}) == len(kinds)
    # 409 while the first of two equal requests still runs: its answer comes, so asking again is right
    assert [c for c in kinds if c.status < 500 and c.status not in (409, 429) and c.should_retry is not False] == []
    assert errors.IdempotencyConflict("x", answered=True).headers() == {"x-should-retry": "false"}


def test_retry_after_is_whole_seconds_up_to_120() -> None:
    assert errors.QueueFull("x", retry_after_s=0.01).headers() == {"retry-after": "1"}
    assert errors.QueueFull("x", retry_after_s=2.1).headers() == {"retry-after": "3"}
    assert errors.QueueFull("x", retry_after_s=9e9).headers() == {"retry-after": "120"}
    assert errors.InvalidValue("x").headers() == {"x-should-retry": "false"}


def test_extra_stands_beside_error() -> None:
    body = errors.ModelDoesNotFit("x", param="model", extra={"fit": [1]}).body()
    assert body["fit"] == [1]
    assert set(body["error"]) == {"message", "type", "param", "code"}
