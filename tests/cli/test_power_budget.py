"""`rigserve power --rig-watts`, `--sweep` and `--unit`, through a stand-in of NVML and a SIMULATED card: a function from watts to tok/s."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from services.calibration.power import Sweep, keep_sweep, power_path, sweeps
from services.calibration.store import CalibrationError
from services.cli import power as command
from services.cli import power_sweep
from services.cli.main import main
from services.cli.power import unit_text
from services.cli.power_sweep import Load, Measured, SweepError, Target, sweep, target_of
from services.hardware.power import Cap, PowerError
from services.hardware.telemetry import Reading
from services.sizing.power import Point, best
from tests.cli.test_power import Nvml, run


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nvml:
    made = Nvml()
    made.set_in_order = []  # type: ignore[attr-defined]
    real = made.nvmlDeviceSetPowerManagementLimit

    def noted(handle: str, milliwatts: int) -> None:
        real(handle, milliwatts)
        made.set_in_order.append(handle)  # type: ignore[attr-defined]

    made.nvmlDeviceSetPowerManagementLimit = noted  # type: ignore[method-assign]
    monkeypatch.setattr("services.hardware.nvidia.load", lambda: made)
    monkeypatch.setenv("RIGSERVE_CALIBRATION", str(tmp_path / "state" / "calibration.db"))
    return made


class SimulatedCard:
    """SIMULATED: speed grows with the square root of the power above 40 W and collapses below 100 W; it draws 95 % of its cap."""

    def __init__(self) -> None:
        self.cap = 180.0
        self.asked: list[float] = []

    def set_cap(self, watts: float) -> None:
        self.cap = watts

    def measure(self) -> Measured:
        self.asked.append(self.cap)
        tok_s = 10 * (self.cap - 40) ** 0.5 * (1.0 if self.cap >= 100 else 0.2)
        return Measured(round(tok_s * 20), 0.95 * self.cap * 20, 20.0)


def test_a_sweep_of_a_simulated_card_stops_below_the_knee_and_sets_the_old_cap_again() -> None:
    card, said = SimulatedCard(), list[Point]()
    points = sweep((180, 160, 140, 120, 100, 90, 80), 0.6, card.set_cap, card.measure, said.append)
    assert card.asked == [180, 160, 140, 120, 100, 90], "80 W is never tried: 90 was far too slow"
    assert list(points) == said
    assert card.cap == 180
    assert best(points, 0.6).cap_watts == 100  # type: ignore[union-attr]
    assert points[0].watts == 171


def test_a_sweep_that_fails_sets_the_old_cap_again() -> None:
    card = SimulatedCard()

    def broken() -> Measured:
        if card.cap < 150:
            raise SweepError("a request failed while measuring: 500")
        return card.measure()

    with pytest.raises(SweepError, match="500"):
        sweep((180, 160, 140), 0.6, card.set_cap, broken)
    assert card.cap == 180


def place(model: str, card: str, state: str = "ready", kind: str = "text") -> dict[str, Any]:
    return {"model_id": model, "state": state, "workload": {"kind": kind}, "slots": 3}


@pytest.mark.parametrize(("cards", "words"), [
    ({}, "serves nothing on GPU-1"), ({"GPU-1": [place("m", "GPU-1", "loading")]}, "serves nothing on GPU-1"),
    ({"GPU-1": [place("m", "GPU-1"), place("sd", "GPU-1", kind="image")]}, "alone on the card; there is m, sd"),
    ({"GPU-1": [place("sd", "GPU-1", kind="image")]}, "needs one language model"),
    ({"GPU-1": [place("m", "GPU-1")], "GPU-2": [place("m", "GPU-2", "loading")]}, "other cards too"),
], ids=["none", "loading", "mixed", "images", "elsewhere"])  # fmt: skip
def test_a_card_whose_speed_could_not_be_told_is_refused(cards: dict[str, Any], words: str) -> None:
    with pytest.raises(SweepError, match=words):
        target_of({"data": [{"id": card, "placements": places} for card, places in cards.items()], "backends": []}, "GPU-1")


def test_the_target() -> None:
    assert target_of({"data": [{"id": "GPU-1", "placements": [place("m", "GPU-1")]}], "backends": []}, "GPU-1") == Target("m", 3)


class Counter:
    """A meter with an energy counter: 100 J a reading."""

    def __init__(self, joules: float | None = 500.0) -> None:
        self.joules = joules

    def read(self, now: float) -> Reading:
        if self.joules is not None:
            self.joules += 100.0
        return Reading(energy_j=self.joules)

    def close(self) -> None: ...


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_sweep, "SETTLE_S", 0.0)
    monkeypatch.setattr(power_sweep, "READ_S", 0.01)


def test_load_counts_tokens_and_joules(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(self: Load) -> int:
        time.sleep(0.02)
        return 64

    monkeypatch.setattr(Load, "_one", one)
    meter = Counter()
    measured = Load("http://x", Target("m", 2), meter, 0.1).measure()
    assert measured.tokens in range(2 * 64, 2 * 64 * 7, 64), "two at a time, each some five times"
    assert measured.joules == (meter.joules or 0) - 600.0, "from the first reading on"
    with pytest.raises(SweepError, match="no joules"):
        Load("http://x", Target("m", 1), Counter(None), 0.0).measure()


def test_a_request_that_fails_ends_the_measurement(quick: None) -> None:
    with pytest.raises(SweepError, match=r"a request failed while measuring: .*refused"):
        Load("http://127.0.0.1:9", Target("m", 2), Counter(), 5.0).measure()


def test_a_budget_is_dealt_out_lower_caps_first(nvml: Nvml) -> None:
    nvml.caps = {"GPU-aa11": 90_000, "GPU-aa22": 180_000}
    assert run("--rig-watts", "250", "--dry-run").exit_code == 0
    assert nvml.caps == {"GPU-aa11": 90_000, "GPU-aa22": 180_000}
    answer = run("--rig-watts", "250")
    assert answer.exit_code == 0, answer.output
    assert nvml.caps == {"GPU-aa11": 125_000, "GPU-aa22": 125_000}
    assert nvml.set_in_order == ["GPU-aa22", "GPU-aa11"], "the sum is never above the budget on the way"  # type: ignore[attr-defined]
    assert "250 of 250 W; set" in answer.output
    assert "not swept; 75% of its default is 135 W" in answer.output
    few = run("--rig-watts", "100")
    assert (few.exit_code, "no cap below 180 W together" in few.output) == (1, True)


def test_a_sweep_is_kept_and_used_by_the_next_budget(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimulatedCard()
    nvml.caps["GPU-aa11"] = 180_000
    cards = {"data": [{"id": "GPU-aa11", "placements": [place("m", "GPU-aa11")]}], "backends": []}
    monkeypatch.setattr(command, "asked_cards", lambda url: cards)
    monkeypatch.setattr(Load, "measure", lambda self: (card.set_cap(nvml.caps["GPU-aa11"] / 1000), card.measure())[1])
    answer = run("--sweep", "--card", "GPU-aa1", "--keep", "60", "--step", "20")
    assert answer.exit_code == 0, answer.output
    assert "most tokens per joule at 100 W with at least 60% of the speed: rigserve power --set 100 --card GPU-aa11" in answer.output
    assert nvml.caps["GPU-aa11"] == 180_000
    found = sweeps(power_path())["GPU-aa11"]
    assert (found.model_id, len(found.points), found.keep) == ("m", 6, 0.6)
    dealt = json.loads(CliRunner().invoke(main, ["power", "--rig-watts", "235", "--dry-run", "--json"]).output)
    assert [one["watts"] for one in dealt["cards"]] == [100, 135]
    assert dealt["set"] is False


def test_the_unit_sets_what_is_set_now(nvml: Nvml) -> None:
    caps = (Cap("GPU-1", "a", 110.5, 180, 90, 180), Cap("GPU-2", "b", 180, 180, 90, 180), Cap("GPU-3", "c", None, None, None, None))
    text = unit_text(caps, "/opt/my rig/rigserve")
    assert [line for line in text.splitlines() if line.startswith("ExecStart=")] == [
        'ExecStart=-"/opt/my rig/rigserve" power --set 110.5 --card GPU-1']  # fmt: skip
    with pytest.raises(PowerError, match="every cap is at its default"):
        unit_text(caps[1:], "rigserve")
    printed = run("--unit")
    assert printed.exit_code == 0
    assert printed.output.count("ExecStart=-") == 2, "no default is known here, so both caps are set again"


@pytest.mark.parametrize("argv", [("--sweep",), ("--rig-watts", "9", "--unit"), ("--dry-run",), ("--rig-watts", "9", "--card", "GPU-a")])
def test_questions_that_can_t_be_understood(nvml: Nvml, argv: tuple[str, ...]) -> None:
    assert run(*argv).exit_code == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"format": "rigserve-power", "sweeps": [{"x": 1}]}'])
def test_a_broken_file_of_sweeps_is_said(tmp_path: Path, text: str) -> None:
    file = tmp_path / "power.json"
    assert sweeps(file) == {}
    file.write_text(text)
    with pytest.raises(CalibrationError, match=r"power\.json"):
        sweeps(file)


def test_impossible_points_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "power.json"
    keep_sweep(file, Sweep("GPU-1", "a", "m", "now", 0.8, (Point(100, 90, 5),)))
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text().replace("90", "0"))
    with pytest.raises(CalibrationError, match="can't be"):
        sweeps(file)
