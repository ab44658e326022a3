"""How a card is, from what it says each second: a pure function of the last view, a reading and the time, with hysteresis.

Sources of the limits: NVIDIA's Xid catalogue (which Xid means what, as services/doctor/xid.py has them); core 80 and memory 85 °C is the
stop rule of the club-170hx rigs, used only where a driver tells no throttle reasons of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.hardware.telemetry import Reading
from services.wire.worker import CardState

# The card, not the program: memory, microcontroller, bus, GSP, or the driver asks for a reset.
FATAL_XIDS = {38: "firmware failed", 48: "uncorrectable memory error", 61: "its microcontroller broke down",
              62: "its microcontroller halted", 64: "a bad memory row could not be taken out of use", 79: "fell off the bus",
              95: "uncontained memory error", 119: "its GSP does not answer", 120: "its GSP failed", 154: "a reset or reboot is needed"}
HARMLESS_XIDS = {43, 45, 63, 94}  # a program was stopped or hit, or the card has dealt with it
HOT_REASONS = {"hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown"}  # not sw_power_cap: that is wanted


@dataclass(frozen=True, slots=True)
class CardLimits:
    """`hot_s`/`calm_s`: so long hot until `throttled`, so long calm until `ok` again. The first quarantine lasts `quarantine_s`, each
    further one in `forget_s` four times the last, at most `longest_s`. `strikes` out-of-memory ends or application Xids in `strike_s`
    quarantine the card."""

    hot_c: float = 80.0
    memory_hot_c: float = 85.0
    cool_by_c: float = 5.0
    hot_s: float = 5.0
    calm_s: float = 30.0
    replays_per_min: float = 100.0
    silent_s: float = 30.0
    quarantine_s: float = 60.0
    longest_s: float = 3600.0
    forget_s: float = 6 * 3600.0
    strikes: int = 3
    strike_s: float = 600.0


@dataclass(frozen=True, slots=True)
class CardView:
    """What is believed of a card. Times are seconds of one monotonic clock. `slow`: why its speed is suspect, until it is measured anew."""

    state: CardState = CardState.OK
    reason: str | None = None
    hot_since_s: float | None = None
    calm_since_s: float | None = None
    lost: str | None = None
    slow: str | None = None
    quarantined_until_s: float | None = None
    quarantine_reason: str | None = None
    quarantines: tuple[float, ...] = ()
    strikes: tuple[float, ...] = ()
    last_xid: int | None = None
    replays: tuple[tuple[float, int], ...] = ()
    ecc_uncorrected: int | None = None

    def quarantine_left_s(self, now: float) -> float:
        return 0.0 if self.quarantined_until_s is None else max(0.0, self.quarantined_until_s - now)


def seen(view: CardView, reading: Reading, now: float, limits: CardLimits = CardLimits()) -> CardView:
    """Enter one reading.

    1. The card is gone (the driver says so, or Xid 79): lost, and quarantined once.
    2. A fatal Xid, or an uncorrectable memory error more than before: quarantined.
    3. Any other Xid that is not harmless: a strike; the third in ten minutes quarantines.
    4. Heat and PCIe replays are followed, for `judged`.
    """
    # 1
    if reading.lost is not None:
        view = view if view.lost else quarantined(view, f"lost: {reading.lost}", now, limits)
        return judged(replace(view, lost=reading.lost), now, limits)
    view = replace(view, lost=None)
    for xid in reading.xids:
        view = replace(view, last_xid=xid)
        # 2
        if xid in FATAL_XIDS:
            view = quarantined(view, f"Xid {xid}: {FATAL_XIDS[xid]}", now, limits)
        # 3
        elif xid not in HARMLESS_XIDS:
            view = struck(view, f"Xid {xid}", now, limits)
    ecc = reading.ecc_uncorrected
    if ecc is not None and view.ecc_uncorrected is not None and ecc > view.ecc_uncorrected:
        view = quarantined(view, f"{ecc - view.ecc_uncorrected} uncorrectable memory error(s)", now, limits)
    # 4
    view = replace(_heat(view, reading, now, limits), ecc_uncorrected=ecc if ecc is not None else view.ecc_uncorrected)
    return judged(_replays(view, reading, now), now, limits, reading)


def judged(view: CardView, now: float, limits: CardLimits, reading: Reading | None = None) -> CardView:
    """1. Gone: lost. 2. In quarantine: draining, nothing new is started on it. 3. Too slow, or its link repeats too much: suspect.
    4. Hot for a while, or not yet calm for long: throttled. 5. Else ok."""
    if view.lost:  # 1
        return replace(view, state=CardState.LOST, reason=view.lost)
    if (left_s := view.quarantine_left_s(now)) > 0:  # 2
        return replace(view, state=CardState.DRAINING, reason=f"in quarantine for {left_s:.0f} s more: {view.quarantine_reason}")
    repeats = _repeats_per_min(view)
    if repeats is not None and repeats > limits.replays_per_min:  # 3
        reason = f"its PCIe link repeated {repeats:.0f} packets in a minute; check riser and cable"
        return replace(view, state=CardState.SUSPECT, reason=reason)
    if view.slow:
        return replace(view, state=CardState.SUSPECT, reason=view.slow)
    was_hot = view.state is CardState.THROTTLED
    if view.hot_since_s is not None and (was_hot or now - view.hot_since_s >= limits.hot_s):  # 4
        return replace(view, state=CardState.THROTTLED, reason=_hot_words(reading) or view.reason)
    if was_hot and (view.calm_since_s is None or now - view.calm_since_s < limits.calm_s):
        return view
    return replace(view, state=CardState.OK, reason=None)  # 5


def quarantined(view: CardView, why: str, now: float, limits: CardLimits) -> CardView:
    """60 s, 4 min, 16 min, an hour by how many there were in the last six hours. One more while in quarantine starts the next length."""
    recent = tuple(at for at in view.quarantines if now - at < limits.forget_s)
    for_s = min(limits.longest_s, limits.quarantine_s * 4.0 ** len(recent))
    return replace(view, quarantines=(*recent, now), quarantined_until_s=now + for_s, quarantine_reason=why)


def struck(view: CardView, why: str, now: float, limits: CardLimits) -> CardView:
    """Once is the program's fault, perhaps; three times in ten minutes is the card's."""
    strikes = (*(at for at in view.strikes if now - at < limits.strike_s), now)
    if len(strikes) < limits.strikes:
        return replace(view, strikes=strikes)
    return quarantined(replace(view, strikes=()), f"{why}, {len(strikes)} times in {limits.strike_s:.0f} s", now, limits)


def _heat(view: CardView, reading: Reading, now: float, limits: CardLimits) -> CardView:
    cooler_by = limits.cool_by_c if view.state is CardState.THROTTLED else 0.0
    if reading.throttle_reasons is not None:
        hot = bool(HOT_REASONS & set(reading.throttle_reasons))
    else:
        pairs = ((reading.temperature_c, limits.hot_c), (reading.memory_temperature_c, limits.memory_hot_c))
        hot = any(value is not None and value >= limit - cooler_by for value, limit in pairs)
    if hot:
        return replace(view, hot_since_s=now if view.hot_since_s is None else view.hot_since_s, calm_since_s=None)
    return replace(view, hot_since_s=None, calm_since_s=now if view.calm_since_s is None else view.calm_since_s)


def _hot_words(reading: Reading | None) -> str | None:
    if reading is None:
        return None
    reasons = ", ".join(sorted(HOT_REASONS & set(reading.throttle_reasons or ())))
    degrees = "" if reading.temperature_c is None else f" at {reading.temperature_c:.0f} °C"
    return f"slowed down{degrees}{f' ({reasons})' if reasons else ''}"


def _replays(view: CardView, reading: Reading, now: float) -> CardView:
    """The counter over the last minute; one that fell was reset."""
    if reading.pcie_replays is None:
        return view
    kept = tuple((at, count) for at, count in view.replays if now - at <= 60.0 and count <= reading.pcie_replays)
    return replace(view, replays=(*kept, (now, reading.pcie_replays)))


def _repeats_per_min(view: CardView) -> float | None:
    return None if not view.replays else float(view.replays[-1][1] - view.replays[0][1])
