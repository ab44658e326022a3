"""How many requests one lane can run at a time, learned when nobody has configured it. Pure: fed with measurements, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

START_SLOTS = 4
MOST_SLOTS = 256
QUEUED_UNITS = 4.0
STEP_WAIT_S = 0.5
WORTH_IT = 0.25
SHRINK_TO = 0.85
PATIENCE = 1024
USUAL_PROMPT_UNITS = 0.02
SMALL = 0.1


class Measured(NamedTuple):  # not a frozen dataclass: made once a request, and those take four times as long to make
    """One request that a lane has finished. `level`: requests in flight on the lane when it was seated, itself included.

    `first_s`: from the seat to its first token; None when not streamed. `engine_waiting`: requests that the engine says wait inside it.
    """

    unit_s: float
    level: int
    seat_s: float
    first_s: float | None = None
    prompt_tokens: int = 0
    engine_waiting: int | None = None


def waited_inside(measured: Measured, prompt_s: float | None) -> bool:
    """Whether the engine had no room for it at once. `prompt_s`: seconds per prompt token as measured, None before that.

    1. The engine says how many wait inside it.
    2. It was alone on the card, or was not streamed: no.
    3. Its first token came later than half as much again as its prompt takes, and QUEUED_UNITS token times. A prompt token is given at
       least its usual time, because prompts that were cached make the measured one look short.

    Worked number: 0.01 s a token, 100 prompt tokens at 0.0002 s: up to 1.5 x 0.02 + 4 x 0.01 = 0.07 s is no wait.
    """
    if measured.engine_waiting is not None:  # 1
        return measured.engine_waiting > 0
    if measured.first_s is None or measured.level == 1:  # 2
        return False
    prompt_s = max(prompt_s or 0.0, USUAL_PROMPT_UNITS * measured.unit_s)  # 3
    return measured.first_s > 1.5 * prompt_s * measured.prompt_tokens + QUEUED_UNITS * measured.unit_s


@dataclass(slots=True)
class SlotLearner:
    """`slots` is what it believes now."""

    slots: int = START_SLOTS
    _clean: int = field(default=0, init=False)
    _unit_sum_s: float = field(default=0.0, init=False)
    _seat_s: float | None = field(default=None, init=False)
    _struck: int | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _before: tuple[int, float] | None = field(default=None, init=False)

    def learn(self, measured: Measured, waited: bool) -> None:
        """One more finished request. `waited`: inside the engine (waited_inside).

        1. It was seated when there were more slots than now: what it tells has been acted on.
        2. It waited inside the engine: the second such in a row makes the slots fewer, below the level at which it was seen.
        3. It ran at once, but beside fewer than the slots allow: says nothing of the last slot.
        4. It ran at once beside as many as allowed. When enough have: did the last step bring tokens/s? If not, it is taken back.
        5. It did: one step more.
        """
        self._seat_s = measured.seat_s if self._seat_s is None else self._seat_s + SMALL * (measured.seat_s - self._seat_s)
        if measured.level > self.slots:  # 1
            return
        if waited:  # 2
            self._strike(measured.level)
            return
        if self._struck is not None and measured.level >= self._struck:
            self._struck = None
        if measured.level < self.slots:  # 3
            return
        self._clean += 1
        self._unit_sum_s += measured.unit_s
        if self._clean < self._needed():
            return
        rate = self.slots * self._clean / self._unit_sum_s  # 4
        if self._before is not None:
            slots, was = self._before
            if rate < was * (1 + WORTH_IT * (self.slots / slots - 1)):
                self._set(slots, failed=True)
                return
            self._failures = max(0, self._failures - 1)
        self._before = (self.slots, rate)  # 5
        step = int(self.slots * STEP_WAIT_S / max(self._seat_s, STEP_WAIT_S / MOST_SLOTS)) if self._failures == 0 else 1
        self.slots = min(MOST_SLOTS, self.slots + min(self.slots, max(1, step)))
        self._clean, self._unit_sum_s = 0, 0.0

    def _strike(self, level: int) -> None:
        lowest = level if self._struck is None else min(level, self._struck)
        if self._struck is None:
            self._struck = level
        elif self.slots > 1:
            self._set(max(1, min(lowest - 1, self.slots - 1, round(self.slots * SHRINK_TO))), failed=True)

    def _set(self, slots: int, failed: bool) -> None:
        self.slots, self._before, self._struck = slots, None, None
        self._clean, self._unit_sum_s = 0, 0.0
        self._failures += failed

    def _needed(self) -> int:
        """How many must have run at once before the next step: few at first, twice as many after each step that was wrong."""
        return min(PATIENCE, max(2, self.slots // 2) * int(2 ** min(self._failures, 10)))
