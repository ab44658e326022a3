"""How many new requests a hot card may take: a pure function of the last decision, a reading and the time.

Requests that run go on; the driver itself slows the card down, and in the end stops it. Taking fewer before that keeps the speed of those
that run, and a card that is hot because its fan or its air failed is not driven on. Slowdown temperatures are the driver's own (NVML's
SLOWDOWN and MEM_MAX thresholds, amdgpu's crit). Where a driver tells neither them nor throttle reasons, 80 °C of the core and 85 °C of the
memory stand for them, the stop rule of the club-170hx rigs. A card that is held at its target temperature by its own fan curve
(sw_thermal_slowdown) is as its maker meant it: that alone takes nothing away.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.hardware.telemetry import Reading
from services.wire.worker import Intake

AT_ITS_LIMIT = "hw_thermal_slowdown"


@dataclass(frozen=True, slots=True)
class HeatLimits:
    """Degrees below the slowdown temperature: at `close_c` nothing new, at `near_c` `share` of the slots, all again at `reopen_c`.
    `retry_s` is said where nobody knows how fast it cools, never more than `longest_s`."""

    close_c: float = 2.0
    near_c: float = 6.0
    reopen_c: float = 8.0
    share: float = 0.5
    retry_s: float = 30.0
    longest_s: float = 120.0
    core_c: float = 80.0
    memory_c: float = 85.0


@dataclass(frozen=True, slots=True)
class Heat:
    """What was decided last. `margin_c`: degrees to the nearer slowdown; `since_s`, `worst_c`: when and where it began to cool."""

    share: float = 1.0
    margin_c: float | None = None
    what: str = ""
    since_s: float = 0.0
    worst_c: float = 0.0


def heeded(before: Heat, reading: Reading, now: float, limits: HeatLimits = HeatLimits()) -> Heat:
    """The decision after one more reading.

    1. No temperature is known (no sensor, a lost card, a driver that fails): all. Other rules look after those.
    2. The margin: the smaller of core and memory below their slowdown; none is left where the driver says that heat slows the card.
    3. Almost no margin: nothing new.
    4. It took nothing, and is not cool yet: still nothing.
    5. Little margin; or it took fewer, and is not cool yet: half of its slots.
    6. Else all.

    Worked number: it slows down at 91 °C: at 86 °C half, at 89 °C nothing, until 83 °C, then all.
    """
    found = _margin(reading, limits)
    if found is None:  # 1
        return Heat()
    margin, what = found  # 2
    if margin <= limits.close_c or (before.share == 0.0 and margin < limits.reopen_c):  # 3, 4
        share = 0.0
    elif margin <= limits.near_c or (before.share < 1.0 and margin < limits.reopen_c):  # 5
        share = limits.share
    else:  # 6
        share = 1.0
    hotter = share != before.share or margin < before.worst_c
    return Heat(share, margin, what, now if hotter else before.since_s, margin if hotter else before.worst_c)


def intake(heat: Heat, now: float, limits: HeatLimits = HeatLimits()) -> Intake:
    """The decision in words, with the time after which asking again makes sense."""
    if heat.share == 1.0 or heat.margin_c is None:
        return Intake(1.0)
    takes = "takes no new requests" if heat.share == 0.0 else f"takes new requests on {heat.share:.0%} of its slots"
    return Intake(heat.share, f"{heat.what}; it {takes} until it is {limits.reopen_c:.0f} °C below", _cool_in_s(heat, now, limits))


def _margin(reading: Reading, limits: HeatLimits) -> tuple[float, str] | None:
    silent = reading.throttle_reasons is None  # then our own limits stand in where the driver tells none
    pairs = (
        ("core", reading.temperature_c, reading.slowdown_c if reading.slowdown_c or not silent else limits.core_c),
        ("memory", reading.memory_temperature_c, reading.memory_slowdown_c if reading.memory_slowdown_c or not silent else limits.memory_c),
    )
    known = [
        (limit - value, f"its {name} is at {value:.0f} °C and slows down at {limit:.0f} °C")
        for name, value, limit in pairs if value is not None and limit is not None
    ]  # fmt: skip
    if AT_ITS_LIMIT in (reading.throttle_reasons or ()):
        at = "" if reading.temperature_c is None else f" at {reading.temperature_c:.0f} °C"
        known.append((0.0, f"the driver slows it down for heat{at}"))
    return min(known) if known else None


def _cool_in_s(heat: Heat, now: float, limits: HeatLimits) -> float:
    """By how fast it cooled since it was hottest. Worked number: 4 °C in 10 s and 2 °C still to go: 5 s."""
    assert heat.margin_c is not None
    gone_c, took_s = heat.margin_c - heat.worst_c, now - heat.since_s
    if gone_c <= 0 or took_s <= 0:
        return limits.retry_s
    return max(1.0, min(limits.longest_s, (limits.reopen_c - heat.margin_c) * took_s / gone_c))
