"""How fast each card and model is, from real traffic: counts are the engines' own usage, times are ours.

A request's tokens enter when it ends, spread over the time in which they came, so a long stream does not show up as a spike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum, auto

from services.gateway.backends import Backend
from services.gateway.directory import Directory
from services.gateway.energy import CardEnergies
from services.gateway.knees import Knee
from services.gateway.outcome import Ending, Outcome
from services.gateway.ring import Ring, Samples
from services.sizing.types import Card
from services.wire.shapes import TokenUsage

PEAK_S = 10


class Sum(IntEnum):
    """The columns of a series."""

    REQUESTS = 0
    SERVED = auto()
    FAILED = auto()
    PROMPT_TOKENS = auto()
    OUTPUT_TOKENS = auto()
    TEXT_SERVED = auto()
    IMAGES = auto()
    IMAGE_SERVED = auto()
    DENOISE_STEPS = auto()
    STEPS_KNOWN = auto()
    TEXT_JOULES = auto()
    IMAGE_JOULES = auto()
    UNMETERED = auto()


# As plain integers: an IntEnum's member is looked up and hashed in Python, once per request too often.
REQUESTS, SERVED, FAILED, PROMPT_TOKENS, OUTPUT_TOKENS, TEXT_SERVED, IMAGES, IMAGE_SERVED, DENOISE_STEPS, STEPS_KNOWN = range(10)
TEXT_JOULES, IMAGE_JOULES, UNMETERED = map(int, (Sum.TEXT_JOULES, Sum.IMAGE_JOULES, Sum.UNMETERED))


class Series:
    """What one backend did."""

    def __init__(self) -> None:
        self.ring = Ring(len(Sum))
        self.ttft, self.tpot, self.queue = Samples(), Samples(), Samples()
        self.peak: tuple[float, float] | None = None  # output tokens/s, and when (monotonic)
        self._text_s: float | None = None  # the last text request's end, while its second was not yet looked at for a peak

    def finished(self, outcome: Outcome, now: float) -> None:
        if self._text_s is not None and int(now) != int(self._text_s):
            self.look_for_peak()
        row, slots = self.ring.row(now), self.ring.slots
        slots[row] += 1
        if outcome.ending is Ending.SERVED:
            slots[row + SERVED] += 1
        elif outcome.ending is Ending.FAILED:
            slots[row + FAILED] += 1
        if outcome.queue_s is not None:
            self.queue.add(outcome.queue_s, now)
        if outcome.first_s is not None:
            self.ttft.add(outcome.first_s - outcome.arrived_s, now)
            tpot_s = outcome.tpot_s
            if tpot_s is not None:
                self.tpot.add(tpot_s, now)
        if outcome.tokens is not None:
            self._text(outcome, outcome.tokens, row, now)
        if outcome.images is not None:
            self._images(outcome, row, now)
        if outcome.joules is None:
            slots[row + UNMETERED] += 1
        elif outcome.seated_s is not None:
            images = outcome.images is not None or (outcome.backend is not None and outcome.backend.kind == "image")
            self.ring.spread(outcome.joules, outcome.seated_s, now, now, IMAGE_JOULES if images else TEXT_JOULES)

    def _text(self, outcome: Outcome, tokens: TokenUsage, row: int, now: float) -> None:
        seated = outcome.seated_s if outcome.seated_s is not None else now
        first = outcome.first_s if outcome.first_s is not None else seated
        self.ring.slots[row + TEXT_SERVED] += 1
        self.ring.spread(tokens.prompt_tokens, seated, first, now, PROMPT_TOKENS)
        self.ring.spread(tokens.output_tokens, first, outcome.last_s or now, now, OUTPUT_TOKENS)
        self._text_s = now

    def look_for_peak(self) -> None:
        """Whether the PEAK_S seconds up to the last text request's end were the best so far; looked at once a second."""
        if self._text_s is not None:
            rate = self.ring.total(PEAK_S, self._text_s, OUTPUT_TOKENS) / PEAK_S
            if self.peak is None or rate > self.peak[0]:
                self.peak = (rate, self._text_s)
            self._text_s = None

    def _images(self, outcome: Outcome, row: int, now: float) -> None:
        assert outcome.images is not None
        seated = outcome.seated_s if outcome.seated_s is not None else now
        self.ring.slots[row + IMAGE_SERVED] += 1
        self.ring.spread(outcome.images.images, seated, now, now, IMAGES)
        if outcome.images.steps is not None:
            self.ring.slots[row + STEPS_KNOWN] += 1
            self.ring.spread(outcome.images.steps, seated, now, now, DENOISE_STEPS)


class Throughput:
    """All series of this gateway. `started_s` bounds every window: nothing is known of the time before."""

    def __init__(self, directory: Directory, cards: Sequence[Card], started_s: float) -> None:
        self._directory = directory
        self.cards = cards
        self.started_s = started_s
        self._series = {backend.id: Series() for backend in directory.backends}
        self.refused: dict[tuple[str | None, str], Ring] = {}  # by model and code
        self.energy = CardEnergies(directory)
        self.knees: dict[str, Knee] = {}  # by model: what sweeps found

    def replace(self, cards: Sequence[Card]) -> None:
        """The rig has these cards from now on; the directory knows its backends. What was counted stays."""
        self.cards = cards
        for backend in self._directory.backends:
            self._series.setdefault(backend.id, Series())

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Enters requests that ended, each in the second in which it did."""
        for outcome in outcomes:
            self._enter(outcome, outcome.ended_s if outcome.ended_s is not None else time.monotonic())

    def _enter(self, outcome: Outcome, now: float) -> None:
        if outcome.ending is Ending.REFUSED:
            refused = self.refused.setdefault((outcome.model_id, outcome.code or "unknown"), Ring())
            refused.slots[refused.row(now)] += 1
        elif outcome.backend is not None:
            outcome.joules = self.energy.of_request(outcome)
            self._series[outcome.backend.id].finished(outcome, now)

    def series_of(self, backend: Backend) -> Series:
        return self._series[backend.id]
