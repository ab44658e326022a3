"""R1: engines that break."""

from __future__ import annotations

import pytest

from tests.gateway.rig import chat
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import Stack, Streamed

pytestmark = pytest.mark.reliability


@scenario(15)
def test_a_clean_end_without_done(stack: Stack, seen: Seen) -> None:
    stack.solo.fault("eof_without_done", after_tokens=3)
    answer = Streamed(stack.gateway, chat())
    assert (answer.status, answer.whole, answer.done) == (200, False, False)
    assert answer.error is not None
    assert answer.error["code"] == "backend_failed"
    assert stack.rose("rigserve_backend_failures_total", backend="backend-0", kind="stream") == 1
    seen(status=200, end="error event backend_failed, then cut", metric="backend_failures{kind=stream} +1", seats=stack.seats_free())
