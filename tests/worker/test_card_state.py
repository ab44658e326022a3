"""The card's state from its readings: each way in, and the way out again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.hardware.telemetry import Reading
from services.wire.worker import CardState
from services.worker.card_care import CardCare, too_slow
from services.worker.card_state import CardLimits, CardView, judged, quarantined, seen, struck
from tests.worker.bench import Bench

LIMITS = CardLimits()
CALM = Reading(temperature_c=60, throttle_reasons=())
HOT = Reading(temperature_c=90, throttle_reasons=("hw_thermal_slowdown",))


def played(*readings: Reading, view: CardView | None = None, start: float = 0.0) -> CardView:
    """One reading a second."""
    view = view or CardView()
    for second, reading in enumerate(readings):
        view = seen(view, reading, start + second, LIMITS)
    return view


def test_throttled_comes_after_five_seconds_and_goes_after_thirty() -> None:
    assert played(*[HOT] * 5).state is CardState.OK
    hot = played(*[HOT] * 6)
    assert (hot.state, hot.reason) == (CardState.THROTTLED, "slowed down at 90 °C (hw_thermal_slowdown)")
    assert played(*[CALM] * 30, view=hot, start=6.0).state is CardState.THROTTLED
    assert played(*[CALM] * 31, view=hot, start=6.0).state is CardState.OK
    flicker = played(*([CALM] * 20 + [HOT]) * 5, view=hot, start=6.0)
    assert flicker.state is CardState.THROTTLED, "it never was calm for thirty seconds"


def test_a_power_cap_that_somebody_set_is_no_throttling_and_heat_counts_where_no_reasons_are_told() -> None:
    assert played(*[replace(HOT, throttle_reasons=("sw_power_cap",))] * 10).state is CardState.OK
    assert played(*[Reading(temperature_c=81)] * 6).state is CardState.THROTTLED
    assert played(*[Reading(memory_temperature_c=86)] * 6).state is CardState.THROTTLED
    assert played(*[Reading()] * 60).state is CardState.OK
    warm = played(*[Reading(temperature_c=81)] * 6)
    assert played(*[Reading(temperature_c=76)] * 60, view=warm, start=6.0).state is CardState.THROTTLED, "not below 75 yet"
    assert played(*[Reading(temperature_c=74)] * 31, view=warm, start=6.0).state is CardState.OK


@pytest.mark.parametrize(("reading", "words"), [
    (Reading(xids=(79,)), "Xid 79: fell off the bus"), (Reading(xids=(43, 48)), "Xid 48"), (Reading(ecc_uncorrected=4), "1 uncorrectable"),
], ids=["79", "48", "ecc"])  # fmt: skip
def test_what_quarantines_at_once(reading: Reading, words: str) -> None:
    view = played(Reading(ecc_uncorrected=3), reading)
    assert view.state is CardState.DRAINING
    assert words in (view.reason or "")
    assert view.quarantine_left_s(1.0) == 60.0
    assert judged(view, 62.0, LIMITS).state is CardState.OK


def test_what_does_not() -> None:
    assert played(Reading(ecc_uncorrected=9_000, xids=(43, 45, 63, 94))).state is CardState.OK, "the first count is the card's past"
    assert played(Reading(xids=(13,)), Reading(xids=(31,))).state is CardState.OK
    assert played(Reading(xids=(13,)), Reading(xids=(31,)), Reading(xids=(13,))).state is CardState.DRAINING
    late = played(Reading(xids=(13,)), Reading(xids=(31,)))
    assert played(Reading(xids=(13,)), view=late, start=700.0).state is CardState.OK


def test_back_off_grows_and_is_forgotten() -> None:
    view, lengths = CardView(), []
    for at in (0.0, 100.0, 1000.0, 5000.0, 9000.0):
        view = quarantined(view, "Xid 62", at, LIMITS)
        lengths.append(view.quarantine_left_s(at))
    assert lengths == [60.0, 240.0, 960.0, 3600.0, 3600.0]
    assert quarantined(view, "Xid 62", 9000.0 + 6 * 3600, LIMITS).quarantine_left_s(9000.0 + 6 * 3600) == 60.0


def test_lost_is_one_quarantine_however_long_and_may_come_back() -> None:
    gone = Reading(lost="the card has fallen off the bus")
    view = played(*[gone] * 100)
    assert (view.state, view.reason, len(view.quarantines)) == (CardState.LOST, "the card has fallen off the bus", 1)
    assert played(CALM, view=view, start=100.0).state is CardState.OK


def test_replays_and_speed_make_it_suspect() -> None:
    fine = [Reading(pcie_replays=1000 + second) for second in range(60)]
    assert played(*fine).state is CardState.OK
    bad = played(*[Reading(pcie_replays=3 * second) for second in range(61)])
    assert bad.state is CardState.SUSPECT
    assert "check riser" in (bad.reason or "")
    assert played(Reading(pcie_replays=0), view=bad, start=61.0).state is CardState.OK, "the counter was reset"
    assert played(CALM, view=CardView(slow="12 tok/s")).state is CardState.SUSPECT


@pytest.mark.parametrize(("predicted", "measured", "slow"), [(60, 29, True), (60, 31, False), (None, 1, False), (60, None, False)])
def test_the_worked_band(predicted: float | None, measured: float | None, slow: bool) -> None:
    assert (too_slow(predicted, measured) is not None) is slow


def test_three_out_of_memory_in_ten_minutes() -> None:
    view = struck(struck(CardView(), "out of memory", 0.0, LIMITS), "out of memory", 100.0, LIMITS)
    assert view.quarantine_left_s(100.0) == 0
    assert struck(view, "out of memory", 601.0, LIMITS).quarantine_left_s(601.0) == 0, "the first is forgotten"
    assert struck(view, "out of memory", 599.0, LIMITS).quarantine_reason == "out of memory, 3 times in 600 s"


def test_nothing_is_claimed_of_a_card_that_nobody_watches() -> None:
    care = CardCare(None)
    assert care.state(draining=False) == (None, None)
    assert care.telemetry() is None
    care.measured_speed(60.0, 10.0)
    assert care.state(draining=False)[0] is CardState.SUSPECT


class Script:
    """A meter that says what the test wants."""

    def __init__(self) -> None:
        self.now = CALM
        self.closed = False

    def read(self, now: float) -> Reading:
        reading, self.now = self.now, replace(self.now, xids=())
        return reading

    def close(self) -> None:
        self.closed = True


async def test_a_quarantined_card_runs_no_engine_and_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.card_care.CardLimits", lambda: CardLimits(quarantine_s=1.5))
    meter = Script()
    bench.start(meter=meter)
    up = await bench.until(lambda now: now.state == "ready" and now.card_state is CardState.OK)
    assert up.telemetry is not None
    assert up.telemetry["temperature_c"] == 60
    meter.now = replace(CALM, xids=(79,))
    down = await bench.until("restarting")
    assert "its card is in quarantine" in (down.reason or "")
    assert down.card_state is CardState.DRAINING
    await bench.until(lambda now: now.engine_pid is None)
    back = await bench.until("ready")
    assert back.card_state is CardState.OK
    assert back.engine_pid != up.engine_pid
    assert back.telemetry is not None
    assert back.telemetry["last_xid"] == 79
