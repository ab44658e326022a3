"""Watches the worker's card: a reading each second from a thread of its own, judged on the event loop.

The thread is a daemon: a driver can hang for ever on a card that falls off the bus, and must hold up neither requests nor our end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from services.hardware.telemetry import Meter, Reading
from services.wire.worker import CardState, Intake
from services.worker import card_state, heat
from services.worker.card_state import CardLimits, CardView

EVERY_S = 1.0
FAR_BELOW = 0.5  # of the prediction: published efficiencies of an architecture lie within a third of the one predicted with


class CardCare:
    """`meter` None (a simulated card): nothing is read, but out-of-memory strikes and a suspect speed still count.
    `on_change(view)` is called on the loop at every change of state, and at every new quarantine."""

    def __init__(
        self, meter: Meter | None, on_change: Callable[[CardView], None] = lambda view: None, *,
        every_s: float = EVERY_S, limits: CardLimits | None = None,
    ) -> None:  # fmt: skip
        self._meter, self._on_change, self._every_s = meter, on_change, every_s
        self._limits = limits or CardLimits()
        self._end = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_at_s: float | None = None
        self.view = CardView()
        self.heat = heat.Heat()
        self.reading: Reading | None = None

    def start(self) -> None:
        """On the loop that is to be told."""
        if self._meter is not None:
            self._loop = asyncio.get_running_loop()
            self._read_at_s = time.monotonic()
            threading.Thread(target=self._watch, args=(self._meter, self._loop), daemon=True, name="telemetry").start()

    def stop(self) -> None:
        self._end.set()
        self._loop = None

    def quarantine_left_s(self) -> float:
        return self.view.quarantine_left_s(time.monotonic())

    def out_of_memory(self) -> None:
        """An engine ended for want of memory. Three times in ten minutes is more than bad luck."""
        now = time.monotonic()
        self._enter(card_state.judged(card_state.struck(self.view, "out of memory", now, self._limits), now, self._limits, self.reading))

    def measured_speed(self, predicted_tok_s: float | None, measured_tok_s: float | None) -> None:
        now = time.monotonic()
        view = replace(self.view, slow=too_slow(predicted_tok_s, measured_tok_s))
        self._enter(card_state.judged(view, now, self._limits, self.reading))

    def state(self, *, draining: bool) -> tuple[CardState | None, str | None]:
        """What is told of the card now. None: nothing watches it and nothing speaks against it. Too hot for all of its slots: throttled."""
        now = time.monotonic()
        if draining:
            return CardState.DRAINING, "its worker is stopping"
        if self._silent(now):
            return CardState.SUSPECT, f"its driver has not answered for {now - (self._read_at_s or now):.0f} s"
        self.view = card_state.judged(self.view, now, self._limits, self.reading)
        if self._meter is None and self.view.state is CardState.OK:
            return None, None
        if self.heat.share < 1.0 and self.view.state in (CardState.OK, CardState.THROTTLED):
            return CardState.THROTTLED, heat.intake(self.heat, now).reason
        return self.view.state, self.view.reason

    def intake(self) -> Intake | None:
        """Which share of the slots new requests may have; all where the driver says nothing, for what it said last may be long over."""
        now = time.monotonic()
        return None if self._meter is None else Intake(1.0) if self._silent(now) else heat.intake(self.heat, now)

    def _silent(self, now: float) -> bool:
        return self._meter is not None and self._read_at_s is not None and now - self._read_at_s > self._limits.silent_s

    def telemetry(self) -> dict[str, Any] | None:
        """The last reading as plain data, with its age and the last Xid."""
        if self.reading is None or self._read_at_s is None:
            return None
        return asdict(self.reading) | {"age_s": round(time.monotonic() - self._read_at_s, 3), "last_xid": self.view.last_xid}

    def _watch(self, meter: Meter, loop: asyncio.AbstractEventLoop) -> None:
        while not self._end.is_set():
            reading = meter.read(time.monotonic())
            try:
                loop.call_soon_threadsafe(self._on_reading, reading)
            except RuntimeError:  # the loop is closed: the worker has ended
                break
            self._end.wait(self._every_s)
        meter.close()

    def _on_reading(self, reading: Reading) -> None:
        now = time.monotonic()
        self._read_at_s, self.reading = now, reading
        self.heat = heat.heeded(self.heat, reading, now)
        self._enter(card_state.seen(self.view, reading, now, self._limits))

    def _enter(self, view: CardView) -> None:
        before, self.view = self.view, view
        if view.state is not before.state or view.quarantined_until_s != before.quarantined_until_s:
            self._on_change(view)


def too_slow(predicted_tok_s: float | None, measured_tok_s: float | None) -> str | None:
    """Worked number: 60 tok/s predicted: 29 is far below, 31 is not."""
    if predicted_tok_s is None or measured_tok_s is None or measured_tok_s >= FAR_BELOW * predicted_tok_s:
        return None
    return (
        f"{measured_tok_s:.1f} tok/s measured, {predicted_tok_s:.1f} predicted: far below what such a card does; look for a power or clock "
        "limit, heat, or a card whose compute is cut (rigserve doctor, rigserve probe)"
    )
