"""How fast each card and model is, from real traffic: counts are the engines' own usage, times are ours.

A request's tokens enter when it ends, spread over the time in which they came, so a long stream does not show up as a spike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum, auto
from typing import Any

from services.gateway.backends import Backend
from services.gateway.directory import Directory
from services.gateway.logs import utc_now
from services.gateway.outcome import Ending, Outcome
from services.gateway.ring import Ring, Samples, percentile
from services.gateway.settings import WINDOWS_S
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


# As plain integers: an IntEnum's member is looked up and hashed in Python, once per request too often.
REQUESTS, SERVED, FAILED, PROMPT_TOKENS, OUTPUT_TOKENS, TEXT_SERVED, IMAGES, IMAGE_SERVED, DENOISE_STEPS, STEPS_KNOWN = map(int, Sum)


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
        self._cards = cards
        self._started_s = started_s
        self._series = {backend.id: Series() for backend in directory.backends}
        self._refused: dict[tuple[str | None, str], Ring] = {}

    def replace(self, cards: Sequence[Card]) -> None:
        """The rig has these cards from now on; the directory knows its backends. What was counted stays."""
        self._cards = cards
        for backend in self._directory.backends:
            self._series.setdefault(backend.id, Series())

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Enters requests that ended, each in the second in which it did."""
        for outcome in outcomes:
            self._enter(outcome, outcome.ended_s if outcome.ended_s is not None else time.monotonic())

    def _enter(self, outcome: Outcome, now: float) -> None:
        if outcome.ending is Ending.REFUSED:
            refused = self._refused.setdefault((outcome.model_id, outcome.code or "unknown"), Ring())
            refused.slots[refused.row(now)] += 1
        elif outcome.backend is not None:
            self._series[outcome.backend.id].finished(outcome, now)

    def series_of(self, backend: Backend) -> Series:
        return self._series[backend.id]

    def report(self, window: str, now: float) -> dict[str, Any]:
        """The JSON of `GET /v1/throughput` for one of WINDOWS_S."""
        directory = self._directory
        return {
            "object": "throughput", "window": window, "window_s": WINDOWS_S[window], "covered_s": round(self._covered_s(window, now), 3),
            "as_of": utc_now(), "windows": list(WINDOWS_S),
            "counted_from": "the usage that engines report, when a request ends, spread over the time its tokens took",
            "totals": self._entry(directory.backends, window, now) | {"refused": self._refusals(None, window, now)},
            "cards": [self._card(card, window, now) for card in self._cards],
            "models": [
                {"id": served.id, "kind": served.kind, "cards": sorted({b.card.id for b in served.backends if b.card}),
                 "waiting": len(served.queue.waiting)}
                | self._entry(served.backends, window, now) | {"refused": self._refusals(served.id, window, now)}
                for served in directory.models.values()
            ],
        }

    def _card(self, card: Card, window: str, now: float) -> dict[str, Any]:
        backends = [backend for backend in self._directory.backends if backend.card is card]
        about = {"id": card.id, "name": card.name, "simulated": card.simulated, "models": sorted({b.model_id for b in backends})}
        return about | self._entry(backends, window, now)

    def _covered_s(self, window: str, now: float) -> float:
        """The seconds that a window really spans: the current second has only just begun, and before the start there is nothing."""
        return min(WINDOWS_S[window] - 1 + now % 1, now - self._started_s)

    def _entry(self, backends: Sequence[Backend], window: str, now: float) -> dict[str, Any]:
        series = [self._series[backend.id] for backend in backends]
        covered = self._covered_s(window, now)
        for one in series:
            one.look_for_peak()
        totals = {column.name.lower(): sum(s.ring.total(WINDOWS_S[window], now, column) for s in series) for column in Sum}
        reasons: dict[str, str] = {}

        def rate(name: str, known: float, why: str) -> float | None:
            if known and covered > 0:
                return round(totals[name] / covered, 4)
            reasons[f"{name}_per_s"] = why
            return None

        none_text, none_image = f"no text request ended in the last {window}", f"no image request ended in the last {window}"
        no_steps = "the engine reports no steps" if totals["image_served"] else none_image
        entry: dict[str, Any] = {
            "running": sum(backend.lane.in_flight for backend in backends),
            "requests_per_s": rate("requests", totals["requests"], f"no request ended in the last {window}"),
            "failed_per_s": rate("failed", totals["requests"], f"no request ended in the last {window}"),
            "prompt_tokens_per_s": rate("prompt_tokens", totals["text_served"], none_text),
            "output_tokens_per_s": rate("output_tokens", totals["text_served"], none_text),
            "images_per_s": rate("images", totals["image_served"], none_image),
            "denoise_steps_per_s": rate("denoise_steps", totals["steps_known"], no_steps),
        }
        start = now - WINDOWS_S[window]
        for name, samples in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("queue_s", "queue")):
            values = sorted(value for one in series for value in getattr(one, samples).since(start))
            entry[name] = {"p50": _rounded(percentile(values, 0.5)), "p95": _rounded(percentile(values, 0.95)), "n": len(values)}
            if not values:
                reasons[name] = f"no stream ended in the last {window}" if name != "queue_s" else f"no request ended in the last {window}"
        peaks = [s.peak for s in series if s.peak is not None]
        best = max(peaks, default=None)
        at = utc_now(seconds_ago=time.monotonic() - best[1]) if best else None
        entry["peak_output_tokens_per_s"] = {"value": round(best[0], 4), "at": at, "over_s": PEAK_S} if best else None
        return entry | {"reasons": reasons}

    def _refusals(self, model_id: str | None, window: str, now: float) -> dict[str, int]:
        found: dict[str, int] = {}
        for (model, code), ring in self._refused.items():
            count = round(ring.total(WINDOWS_S[window], now)) if model_id in (None, model) else 0
            if count:
                found[code] = found.get(code, 0) + count
        return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
