"""`rigserve power --sweep`: tokens per joule of one real card under falling power caps, with requests of our own to the running gateway."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from services.hardware.telemetry import Meter
from services.sizing.power import Point

SETTLE_S = 2.0  # clocks follow a cap within a second
READ_S = 0.5
TOKENS = 64  # of one request: short against a measurement, so that its last requests weigh little
REQUEST_S = 120.0


class SweepError(click.ClickException):
    """A sweep can't be made or went wrong. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens of all requests, and the card's joules, over so many seconds."""

    tokens: int
    joules: float
    seconds: float


def sweep(caps: Sequence[float], keep: float, set_cap: Callable[[float], None], measure: Callable[[], Measured],
          say: Callable[[Point], None] = lambda point: None) -> tuple[Point, ...]:  # fmt: skip
    """One point for each cap, from the highest down.

    1. Set the cap, measure. 2. Below `keep` of the fastest so far: stop; lower caps are slower still, and one that is too low can break an
    engine (a V100 at 150 W died while loading). 3. However it ends, the cap of before (the first) is set again.
    """
    points: list[Point] = []
    try:
        for cap in caps:
            set_cap(cap)  # 1
            one = measure()
            points.append(Point(cap, one.joules / one.seconds, one.tokens / one.seconds))
            say(points[-1])
            if points[-1].tok_s < keep * max(point.tok_s for point in points):  # 2
                break
    finally:
        set_cap(caps[0])  # 3
    return tuple(points)


@dataclass(frozen=True, slots=True)
class Target:
    """The one model that a card serves, and how many requests it takes at a time."""

    model_id: str
    slots: int


def target_of(cards: Any, card_id: str) -> Target:
    """What runs on the card, by /v1/cards.

    1. The gateway doesn't know the card, or nothing on it is ready: refused. 2. Several models on it: their requests would mix: refused.
    3. The model runs elsewhere too: our requests might go there: refused.
    """
    card = next((one for one in cards["data"] if one["id"] == card_id), None)
    ready = [place for place in (card or {}).get("placements", []) if place.get("state") == "ready"]
    if not ready:  # 1
        raise SweepError(f"the gateway serves nothing on {card_id} now; start a language model on it (rigserve serve), then sweep.")
    texts = [place for place in ready if (place.get("workload") or {}).get("kind") == "text"]
    if len(ready) > 1 or not texts:  # 2
        raise SweepError(f"a sweep needs one language model alone on the card; there is {', '.join(place['model_id'] for place in ready)}.")
    model = texts[0]["model_id"]
    places = [place for one in cards["data"] for place in one.get("placements", []) if place["model_id"] == model]
    if len(places) + sum(loose.get("model_id") == model for loose in cards.get("backends", [])) > 1:  # 3
        raise SweepError(f"{model} is served by other cards too, which would take some of the requests; plan it on this card alone.")
    return Target(model, max(1, int(texts[0].get("slots") or 1)))


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to the gateway, as many at a time as the card has slots, for so many seconds, with the card's energy read beside them."""

    url: str
    target: Target
    meter: Meter
    for_s: float
    key_file: Path | None = None

    def measure(self) -> Measured:
        """Raises SweepError when a request fails or the card tells no power."""
        time.sleep(SETTLE_S)
        begun, counts, failed = time.monotonic(), list[int](), list[str]()
        threads = [threading.Thread(target=self._ask_on, args=(begun, counts, failed), daemon=True) for _ in range(self.target.slots)]
        reading = self.meter.read(begun)
        first_j = reading.energy_j
        for thread in threads:
            thread.start()
        while running := [thread for thread in threads if thread.is_alive()]:
            running[0].join(READ_S)
            reading = self.meter.read(time.monotonic())
        took_s = time.monotonic() - begun
        if failed:
            raise SweepError(f"a request failed while measuring: {failed[0]}")
        if reading.energy_j is None:
            raise SweepError("the card tells neither its energy nor its power, so there are no joules to compare")
        # An integrated energy has no value before its second reading: it counts from the first.
        return Measured(sum(counts), reading.energy_j - (first_j or 0.0), took_s)

    def _ask_on(self, begun: float, counts: list[int], failed: list[str]) -> None:
        while time.monotonic() - begun < self.for_s and not failed:
            try:
                counts.append(self._one())
            except (OSError, ValueError, KeyError, TypeError) as error:
                failed.append(str(error) or type(error).__name__)

    def _one(self) -> int:
        """Tokens that the engine says it made."""
        body = {"model": self.target.model_id, "prompt": "Count:", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        headers = {"Content-Type": "application/json"}
        if self.key_file is not None:
            headers["Authorization"] = f"Bearer {self.key_file.read_text(encoding='utf8').strip()}"
        where = self.url.rstrip("/") + "/v1/completions"
        request = urllib.request.Request(where, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - http(s), checked
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:  # noqa: S310
                return int(json.load(answer)["usage"]["completion_tokens"])
        except urllib.error.HTTPError as error:
            raise OSError(f"{error.code}: {error.read(500).decode('utf8', 'replace')}") from error
