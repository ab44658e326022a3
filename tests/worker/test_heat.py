"""Thermal admission, and a card that is far too slow: from what NVML says (played traces) to what the worker says."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.hardware.telemetry import Reading
from services.sizing.types import Speed
from services.wire.worker import CardState, Intake
from services.worker.card_care import CardCare
from services.worker.card_state import CardLimits
from services.worker.heat import Heat, heeded, intake
from tests.hardware.trace import NvmlTrace, TraceMeter
from tests.worker.bench import Bench
from tests.worker.sample import CPU, placement

COOL = Reading(temperature_c=70, slowdown_c=91, throttle_reasons=())


def at(core: float, before: Heat | None = None, now: float = 0.0) -> Heat:
    return heeded(before or Heat(), replace(COOL, temperature_c=core), now)


def test_the_worked_number_and_its_hysteresis() -> None:
    shares, heat = [], Heat()
    for now, core in enumerate((84, 86, 85, 84, 89, 85, 84, 83, 84, 85)):
        heat = at(core, heat, now)
        shares.append(heat.share)
    #                 84   86   85   84   89   85   84   83   84   85
    assert shares == [1.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize(("reading", "share"), [
    (Reading(), 1.0), (Reading(lost="gone"), 1.0), (Reading(temperature_c=99, throttle_reasons=()), 1.0),
    (Reading(temperature_c=79), 0.0), (Reading(temperature_c=75), 0.5), (Reading(memory_temperature_c=84), 0.0),
    (replace(COOL, throttle_reasons=("sw_thermal_slowdown",)), 1.0), (replace(COOL, throttle_reasons=("hw_thermal_slowdown",)), 0.0),
    (replace(COOL, memory_temperature_c=103, memory_slowdown_c=105), 0.0),
    (replace(COOL, memory_temperature_c=90, memory_slowdown_c=105), 1.0),
], ids=["nothing", "lost", "no threshold but reasons", "nothing told: 80", "nothing told: 75", "nothing told: memory", "fan curve",
        "slowed", "memory", "memory cool"])  # fmt: skip
def test_each_branch(reading: Reading, share: float) -> None:
    assert heeded(Heat(), reading, 0.0).share == share


def test_the_time_after_which_to_ask_again() -> None:
    shut = at(90, now=100.0)
    assert intake(shut, 100.0).retry_after_s == 30.0, "nobody knows yet how fast it cools"
    cooling = at(85, at(87, shut, 105.0), 110.0)
    assert intake(cooling, 110.0).retry_after_s == pytest.approx(2 * 10 / 5), "5 °C in 10 s, 2 °C to go"
    assert intake(at(89.9, shut, 120.0), 120.0).retry_after_s == 120.0, "it hardly cools: never longer than two minutes"
    assert intake(at(91, cooling, 120.0), 120.0).retry_after_s == 30.0, "hotter than ever: measured anew"
    assert intake(Heat(), 0.0) == Intake(1.0)


def played(name: str) -> list[tuple[int, float, Intake]]:
    """Second, core temperature and decision at every change."""
    meter, heat, told = TraceMeter(name), Heat(), []
    assert meter.trace.about.startswith("NOT recorded"), "a trace from a real card needs no such words"
    for second in range(len(meter.trace)):
        reading = meter.read(float(second))
        before, heat = heat, heeded(heat, reading, float(second))
        if heat.share != before.share:
            told.append((second, reading.temperature_c or 0, intake(heat, float(second))))
    return told


def test_a_fan_that_fails() -> None:
    told = played("fan_fails")
    assert [(core, said.share) for _, core, said in told] == [(86, 0.5), (90, 0.0), (84, 1.0)]
    assert told[1][2].reason == (
        "its core is at 90 °C and slows down at 92 °C; it takes no new requests until it is 8 °C below"
    )  # fmt: skip


def test_memory_counts_while_the_core_is_cool() -> None:
    assert [(said.share, (said.reason or "")[:27]) for _, _, said in played("memory_hot")] == [
        (0.5, "its memory is at 99 °C and "), (0.0, "its memory is at 103 °C and")]  # fmt: skip


async def test_the_worker_says_it_with_the_reason(bench: Bench) -> None:
    meter = TraceMeter("fan_fails")
    bench.start(meter=meter)
    shut = await bench.until(lambda now: now.intake is not None and now.intake.share == 0)
    assert shut.card_state is CardState.THROTTLED
    assert "takes no new requests until it is 8 °C below" in (shut.card_reason or "")
    assert shut.intake is not None
    assert shut.intake.retry_after_s
    await bench.until("ready")  # what runs goes on
    cool = await bench.until(lambda now: now.intake == Intake(1.0) and (now.telemetry or {})["temperature_c"] < 80)
    assert cool.card_state is CardState.OK


async def test_a_driver_that_falls_silent_closes_nothing_for_ever() -> None:
    care = CardCare(TraceMeter("memory_hot"), every_s=0.01, limits=CardLimits(silent_s=0.05))
    care.start()
    async with asyncio.timeout(5):
        while care.heat.share:
            await asyncio.sleep(0.01)
    care.stop()
    await asyncio.sleep(0.1)
    assert care.intake() == Intake(1.0)
    assert CardCare(None).intake() is None


async def test_far_below_its_band_is_suspect_until_it_is_measured_anew(bench: Bench) -> None:
    """The whole way: the placement's prediction, a real request to the (stand-in) engine, the card's state beside its telemetry."""
    where = placement(CPU)
    fast = replace(where, report=replace(where.report, speed=Speed(decode_tok_s=1e6)))
    driver = bench.start("paced", where=fast, meter=TraceMeter("steady"))
    slow = await bench.until(lambda now: now.state == "ready" and now.card_state is CardState.SUSPECT)
    assert slow.measured is not None
    assert f"{slow.measured['tok_s']:.1f} tok/s measured, 1000000.0 predicted: far below" in (slow.card_reason or "")
    assert slow.telemetry is not None
    assert slow.telemetry["power_watts"] == 130.0
    driver._planned = replace(where, report=replace(where.report, speed=Speed(decode_tok_s=0.1)))
    driver.restart()
    await bench.until(lambda now: now.restarts == 1 and now.state == "ready" and now.card_state is CardState.OK)


def test_the_player_says_when_a_trace_is_over() -> None:
    trace = NvmlTrace("steady")
    assert [trace.next() for _ in range(len(trace) + 1)][-2:] == [True, False]
