"""How many requests one lane can run at a time, learned when nobody has configured it. Pure: fed with measurements, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

START_SLOTS = 2
MOST_SLOTS = 256
QUEUED_UNITS = 4.0
STEP_WAIT_S = 0.5
WORTH_IT = 0.25
SHRINK_TO = 0.85
PATIENCE = 1024
SMALL = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """One request that a lane has finished. `level`: requests in flight on the lane when it was seated, itself included.

    `first_s`: from the seat to its first token; None when not streamed. `engine_waiting`: requests that the engine says wait inside it.
    """

    unit_s: float
    level: int
    seat_s: float
    first_s: float | None = None
    prompt_tokens: int = 0
    engine_waiting: int | None = None


@dataclass(slots=True)
class SlotLearner:
    """`slots` is what it believes now. `prompt_units`: token times that one prompt token costs, at first a usual figure."""

    slots: int = START_SLOTS
    prompt_units: float = 0.02
    _clean: int = field(default=0, init=False)
    _unit_sum_s: float = field(default=0.0, init=False)
    _seat_s: float | None = field(default=None, init=False)
    _struck: int | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _before: tuple[int, float] | None = field(default=None, init=False)

    def learn(self, measured: Measured) -> None:
        """One more finished request.

        1. It waited inside the engine: the second such in a row makes the slots fewer, below the level at which it was seen.
        2. It ran at once, but beside fewer than the slots allow: says nothing of the last slot.
        3. It ran at once beside as many as allowed. When enough have: did the last step bring tokens/s? If not, it is taken back.
        4. It did: one step more.
        """
        self._seat_s = measured.seat_s if self._seat_s is None else self._seat_s + SMALL * (measured.seat_s - self._seat_s)
        if self._waited_inside(measured):  # 1
            self._strike(measured.level)
            return
        if measured.level < self.slots:  # 2
            return
        self._struck = None
        self._clean += 1
        self._unit_sum_s += measured.unit_s
        if self._clean < self._needed():
            return
        rate = self.slots * self._clean / self._unit_sum_s  # 3
        if self._before is not None:
            slots, was = self._before
            if rate < was * (1 + WORTH_IT * (self.slots / slots - 1)):
                self._set(slots, failed=True)
                return
        self._before = (self.slots, rate)  # 4
        step = int(self.slots * STEP_WAIT_S / self._seat_s) if self._failures == 0 else 1
        self.slots = min(MOST_SLOTS, self.slots + min(self.slots, max(1, step)))
        self._clean, self._unit_sum_s = 0, 0.0

    def _waited_inside(self, measured: Measured) -> bool:
        """The engine says so; else its first token came later than its prompt explains, by more than QUEUED_UNITS token times.

        Worked number: 0.01 s a token, 100 prompt tokens at 0.02 token times each: due after 0.02 s + one token; up to 0.065 s is no wait.
        """
        if measured.engine_waiting is not None:
            return measured.engine_waiting > 0
        if measured.first_s is None:
            return False
        units = measured.first_s / measured.unit_s
        if measured.level <= max(1, self.slots // 2) and measured.prompt_tokens >= 100:
            self.prompt_units += SMALL * ((units - 1) / measured.prompt_tokens - self.prompt_units)
        return units > 1.25 * self.prompt_units * measured.prompt_tokens + QUEUED_UNITS

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
