"""One timer for a request: each phase has its own deadline, and none goes past the total."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from services.gateway.outcome import Outcome, Phase
from services.wire.errors import DeadlineExceeded

SAID = {
    Phase.FIRST_BYTE: "The engine gave no first token within {:g} s.",
    Phase.ANSWER: "The engine gave no answer within {:g} s.",
    Phase.STREAMING: "The engine stopped in the middle: no token for {:g} s.",
    Phase.WRITING: "The client did not read for {:g} s.",
}
TOO_LONG = "The answer took longer than {:g} s."


class PhaseTimer:
    """`async with PhaseTimer(outcome, total_s) as timer:` then `timer.enter(phase, seconds)`.

    A phase that takes too long cancels the block, which then raises DeadlineExceeded with a sentence that says which phase it was.
    """

    def __init__(self, outcome: Outcome, total_s: float) -> None:
        self._outcome = outcome
        self._total_s = total_s
        self._seconds = total_s
        self._timeout = asyncio.timeout(total_s)
        self._end = 0.0
        self._loop = asyncio.get_running_loop()

    def enter(self, phase: Phase, seconds: float) -> None:
        """From now on `phase` has `seconds`."""
        now = self._loop.time()
        self._outcome.phase = phase
        self._seconds = min(seconds, self._total_s)
        self._timeout.reschedule(min(now + seconds, self._end))

    async def __aenter__(self) -> Self:
        self._end = self._loop.time() + self._total_s
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if not self._timeout.expired():
                raise
            over = self._loop.time() >= self._end
            said = TOO_LONG if over else SAID.get(self._outcome.phase, "The request took longer than {:g} s.")
            raise DeadlineExceeded(said.format(self._total_s if over else self._seconds)) from None
