"""The JSON of `GET /v1/throughput`: what the meters hold, per card, per model, and per card and model. Unknown is None with a reason.

Watts, tokens per joule and costs of a card are of all that it drew, idle too. `serving` is the requests' own share of it (energy.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from services.gateway.backends import Backend
from services.gateway.card_readings import card_health
from services.gateway.core import Gateway
from services.gateway.directory import Served
from services.gateway.energy import Drawn
from services.gateway.expected import capacity, card_capacity, predicted
from services.gateway.logs import utc_now
from services.gateway.power_figures import FIGURES, NO_TARIFF, PowerFigures, power_figures
from services.gateway.ring import percentile
from services.gateway.settings import WINDOWS_S
from services.gateway.throughput import PEAK_S, Series, Sum
from services.sizing.types import Card

NEEDED_SHARE = 0.5  # of a window in which the card's energy is known: then its mean stands for the whole
SAMPLES = {"ttft_s": "stream", "tpot_s": "stream of two tokens or more", "queue_s": "request"}
TELEMETRY = ("temperature_c", "power_watts", "used_bytes", "throttle_reasons", "pcie_generation", "pcie_width", "pcie_replays")


def report(gateway: Gateway, window: str, now: float) -> dict[str, Any]:
    """For one of WINDOWS_S; `now` is monotonic."""
    return Report(gateway, window, now).json()


@dataclass(frozen=True)
class Report:
    """One window, at one moment: every series is summed once."""

    gateway: Gateway
    window: str
    now: float

    @cached_property
    def window_s(self) -> int:
        return WINDOWS_S[self.window]

    @cached_property
    def covered_s(self) -> float:
        """The seconds that the window really spans: the current second has only just begun, and before the start there is nothing."""
        return min(self.window_s - 1 + self.now % 1, self.now - self.gateway.throughput.started_s)

    @cached_property
    def sums(self) -> dict[str, list[float]]:
        """Of every backend, in the order of Sum."""
        series = ((backend, self._series(backend)) for backend in self.gateway.directory.backends)
        return {backend.id: one.ring.totals(self.window_s, self.now) for backend, one in series}

    @cached_property
    def samples(self) -> dict[str, dict[str, list[float]]]:
        """Of every backend, sorted: to sort several of them together is to merge them."""
        start, every = self.now - self.window_s, self.gateway.directory.backends
        return {
            backend.id: {name: sorted(getattr(self._series(backend), name.removesuffix("_s")).since(start)) for name in SAMPLES}
            for backend in every
        }

    def _series(self, backend: Backend) -> Series:
        return self.gateway.throughput.series_of(backend)

    def json(self) -> dict[str, Any]:
        directory, tariff = self.gateway.directory, self.gateway.settings.tariff
        return {
            "object": "throughput", "window": self.window, "window_s": self.window_s, "covered_s": round(self.covered_s, 3),
            "as_of": utc_now(), "windows": list(WINDOWS_S),
            "counted_from": "the usage that engines report, when a request ends, spread over the time its tokens took",
            "tariff": {"per_kwh": tariff.per_kwh, "currency": tariff.currency} if tariff else None,
            "tariff_reason": None if tariff else NO_TARIFF,
            "totals": self._totals(),
            "cards": [self._card(card) for card in self.gateway.throughput.cards],
            "models": [self._model(served) for served in directory.models.values()],
            "backends": [self._backend(backend, served) for served in directory.models.values() for backend in served.backends],
        }

    # --- whose ---

    def _totals(self) -> dict[str, Any]:
        backends = self.gateway.directory.backends
        waiting = sum(len(served.queue.waiting) for served in self.gateway.directory.models.values())
        cards = {backend.card.id: backend.card for backend in backends if backend.card is not None}
        drawn = [(card, self._drawn(card.id)) for card in cards.values()]
        unknown = [card.name + (" (simulated)" if card.simulated else "") for card, one in drawn if self._watts(one) is None]
        watts, why = None, "no card is known: this gateway runs without a plan"
        if unknown:
            why = f"not of every card is its energy known: {', '.join(sorted(set(unknown)))}"
        elif any(backend.card is None for backend in backends) and cards:
            why = "the cards of the --backend servers are not known"
        elif drawn:
            watts = sum(self._watts(one) or 0.0 for _, one in drawn)
        sources = {one.source or "unavailable" for _, one in drawn} or {"unavailable"}
        energy = {"energy_source": sources.pop() if len(sources) == 1 else "mixed"}
        found = {"waiting": waiting} | energy | self._entry(backends, (watts, why))
        return found | {"refused": self._refusals(None)}

    def _card(self, card: Card) -> dict[str, Any]:
        backends = [backend for backend in self.gateway.directory.backends if backend.card is card]
        drawn, health = self._drawn(card.id), card_health(card, backends)
        reading = health["telemetry"] or {}
        found: dict[str, Any] = {
            "id": card.id, "name": card.name, "simulated": card.simulated, "models": sorted({b.model_id for b in backends}),
            "state": health["state"], "state_reason": health["state_reason"], "total_bytes": card.total_bytes,
            **{name: reading.get(name) for name in TELEMETRY},
            "energy_source": drawn.source or "unavailable", "energy_known_s": round(min(drawn.known_s, self.covered_s), 3),
        }
        found |= self._entry(backends, (self._watts(drawn), _no_watts(card, backends, drawn, self.window)))
        if not reading:
            found["reasons"]["telemetry"] = _no_reading(card, backends)
        return found | {"capacity": card_capacity(self.gateway, backends)}

    def _model(self, served: Served) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": served.id, "kind": served.kind, "cards": sorted({b.card.id for b in served.backends if b.card}),
            "waiting": len(served.queue.waiting),
        }
        rate = found | self._entry(served.backends) | {"refused": self._refusals(served.id)}
        return rate | {"capacity": capacity(self.gateway, served, rate["requests_per_s"])}

    def _backend(self, backend: Backend, served: Served) -> dict[str, Any]:
        """A row per card and model."""
        card, entry = backend.card, self._entry([backend])
        found = {"id": backend.id, "card": card.id if card else None, "card_name": card.name if card else None,
                 "simulated": card.simulated if card else None, "model": served.id, "kind": backend.kind, "engine": backend.engine,
                 "state": backend.state, "slots": backend.lane.slots}
        return found | entry | {"predicted": predicted(backend, entry)}

    # --- what ---

    def _entry(self, backends: Sequence[Backend], drawn: tuple[float | None, str] | None = None) -> dict[str, Any]:
        """`drawn`: watts of all these together, and why they are not known; None: other backends draw from the same cards."""
        sums = [self.sums[backend.id] for backend in backends]
        totals = {column.name.lower(): sum(one[column] for one in sums) for column in Sum}
        reasons: dict[str, str] = {}
        entry: dict[str, Any] = {"running": sum(backend.lane.in_flight for backend in backends)} | self._rates(totals, reasons)
        if not totals["requests"]:
            reasons["error_share"] = reasons["requests_per_s"]
        entry["error_share"] = round(totals["failed"] / totals["requests"], 5) if totals["requests"] else None
        entry |= self._percentiles(backends, reasons)
        if drawn is not None:
            entry |= self._all_drawn(entry, drawn, reasons)
        entry["serving"] = self._serving(totals, entry)
        return entry | {"reasons": reasons}

    def _rates(self, totals: dict[str, float], reasons: dict[str, str]) -> dict[str, Any]:
        none = f"no request ended in the last {self.window}"
        none_text, none_image = none.replace("no ", "no text ", 1), none.replace("no ", "no image ", 1)
        known_by = {
            "requests": ("requests", none), "failed": ("requests", none), "prompt_tokens": ("text_served", none_text),
            "output_tokens": ("text_served", none_text), "images": ("image_served", none_image),
            "denoise_steps": ("steps_known", "the engine reports no steps" if totals["image_served"] else none_image),
        }  # fmt: skip
        found: dict[str, Any] = {}
        for name, (known, why) in known_by.items():
            is_known = totals[known] and self.covered_s > 0
            found[f"{name}_per_s"] = round(totals[name] / self.covered_s, 4) if is_known else None
            if not is_known:
                reasons[f"{name}_per_s"] = why
        return found

    def _percentiles(self, backends: Sequence[Backend], reasons: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, what in SAMPLES.items():
            values = sorted(chain.from_iterable(self.samples[backend.id][name] for backend in backends))
            found[name] = {f"p{share}": _rounded(percentile(values, share / 100)) for share in (50, 95, 99)} | {"n": len(values)}
            if not values:
                reasons[name] = f"no {what} ended in the last {self.window}"
        series = [self._series(backend) for backend in backends]
        for one in series:
            one.look_for_peak()
        best = max((one.peak for one in series if one.peak is not None), default=None)
        at = utc_now(seconds_ago=time.monotonic() - best[1]) if best else None
        return found | {"peak_output_tokens_per_s": {"value": round(best[0], 4), "at": at, "over_s": PEAK_S} if best else None}

    def _all_drawn(self, entry: dict[str, Any], drawn: tuple[float | None, str], reasons: dict[str, str]) -> dict[str, Any]:
        """1. Watts are not known. 2. Text and images had one energy: no part of it is either's. 3. All of it was for one of them."""
        watts, why = drawn
        tokens, images = entry["output_tokens_per_s"], entry["images_per_s"]
        if watts is None:  # 1
            reasons |= dict.fromkeys(("watts", *FIGURES), why)
            return dict.fromkeys(("watts", *FIGURES))
        if tokens and images:  # 2
            both = "text and images shared the energy in this window; see serving"
            reasons |= dict.fromkeys(FIGURES, both)
            return {"watts": round(watts, 3)} | dict.fromkeys(FIGURES)
        figures = power_figures(watts, tokens, watts, images, self.gateway.settings.tariff)  # 3
        return {"watts": round(watts, 3)} | self._told(figures, entry, reasons)

    def _serving(self, totals: dict[str, float], entry: dict[str, Any]) -> dict[str, Any]:
        """The share of seats in what was drawn. One request without known joules, and the sum is not known."""
        reasons: dict[str, str] = {}
        if not totals["requests"] or totals["unmetered"]:
            none = f"no request ended in the last {self.window}"
            why = f"of {totals['unmetered']:.0f} requests the energy is not known" if totals["unmetered"] else none
            names = ("joules", *FIGURES)
            return dict.fromkeys(names) | {"reasons": dict.fromkeys(names, why)}
        text, image = totals["text_joules"], totals["image_joules"]
        of_text, of_image = text / self.covered_s, image / self.covered_s
        figures = power_figures(of_text, entry["output_tokens_per_s"], of_image, entry["images_per_s"], self.gateway.settings.tariff)
        return {"joules": round(text + image, 3)} | self._told(figures, entry, reasons) | {"reasons": reasons}

    def _told(self, figures: PowerFigures, entry: dict[str, Any], reasons: dict[str, str]) -> dict[str, Any]:
        for name, value in figures.items():
            if value is None:
                of_images = name.endswith("image")
                served = entry["images_per_s"] if of_images else entry["output_tokens_per_s"]
                what = "images were" if of_images else "tokens were"
                no_tariff = name.startswith("cost") and self.gateway.settings.tariff is None
                reasons[name] = NO_TARIFF if no_tariff and served else f"no {what} made in the last {self.window}"
        return dict(figures)

    # --- from where ---

    def _drawn(self, card_id: str) -> Drawn:
        return self.gateway.throughput.energy.drawn(card_id, self.window_s, self.now)

    def _watts(self, drawn: Drawn) -> float | None:
        """The mean while it is known, where that is long enough."""
        return drawn.joules / drawn.known_s if drawn.known_s > 0 and drawn.known_s >= NEEDED_SHARE * self.covered_s else None

    def _refusals(self, model_id: str | None) -> dict[str, int]:
        found: dict[str, int] = {}
        for (model, code), ring in self.gateway.throughput.refused.items():
            count = round(ring.total(self.window_s, self.now)) if model_id in (None, model) else 0
            if count:
                found[code] = found.get(code, 0) + count
        return found


def _no_reading(card: Card, backends: Sequence[Backend]) -> str:
    if card.simulated:
        return "a simulated card has no sensors"
    return "no worker of this card answers with a reading" if backends else "nothing is placed on this card, so no worker watches it"


def _no_watts(card: Card, backends: Sequence[Backend], drawn: Drawn, window: str) -> str:
    if card.simulated:
        return "a simulated card has no power of its own"
    if not backends:
        return "nothing is placed on this card, so no worker watches it"
    if drawn.source is None:
        return "no worker of this card has told its energy"
    return f"the energy of this card is known for {drawn.known_s:.0f} s of the last {window} only"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
