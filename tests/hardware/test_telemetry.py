"""Telemetry from a stand-in of NVML and from amdgpu's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from services.hardware.telemetry import Energy, Reading, meter
from services.hardware.telemetry_nvidia import NvidiaMeter
from services.sizing.cards import parse_cards, simulated_cpu_card
from tests.hardware.player import build_tree

UUID = "GPU-1"
# What a board of this kind answers, by NVML's own names; what is not here it does not support.
AMPERE: dict[str, Any] = {
    "MemoryInfo": SimpleNamespace(total=8 << 30, used=3 << 30, free=5 << 30), "PowerUsage": 118_250, "EnforcedPowerLimit": 130_000,
    "TotalEnergyConsumption": 7_500_000, "Temperature": 71, "ClockInfo": {1: 1665, 2: 7001},
    "UtilizationRates": SimpleNamespace(gpu=97, memory=64), "CurrentClocksEventReasons": 0x4 | 0x1,
    "CurrPcieLinkGeneration": 1, "CurrPcieLinkWidth": 1, "MaxPcieLinkGeneration": 4, "MaxPcieLinkWidth": 16, "PcieReplayCounter": 12,
    "FieldValues": [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=84))], "TotalEccErrors": {0: 5, 1: 0},
    "TemperatureThreshold": {1: 98, 2: 0},
}
PASCAL = {name: AMPERE[name] for name in ("MemoryInfo", "Temperature", "CurrPcieLinkGeneration", "PowerUsage")} | {
    "CurrentClocksThrottleReasons": 0x40,
}


class Nvml:
    """NVML with one card. `fails`: call -> return code; `events`: Xids that wait."""

    NVMLError = pynvml.NVMLError
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.fails, self.events, self.open = dict(answers), dict[str, int](), list[int](), 0

    def _may(self, name: str) -> None:
        if name in self.fails:
            raise pynvml.NVMLError(self.fails[name])

    def nvmlInit(self) -> None:
        self._may("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._may("nvmlDeviceGetHandleByUUID")
        return uuid

    def nvmlEventSetCreate(self) -> object:
        self._may("nvmlEventSetCreate")
        return object()

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: object) -> None:
        assert kinds == 8

    def nvmlEventSetFree(self, events: object) -> None: ...

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:
        assert timeout_ms == 0
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self.events.pop(0))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def answer(handle: str, *arguments: Any) -> Any:
            self._may(name)
            value = self.answers.get(name.removeprefix("nvmlDeviceGet"))
            if value is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value[arguments[0]] if isinstance(value, dict) else value

        return answer


def test_every_figure_of_a_board_that_tells_all() -> None:
    nvml = Nvml(AMPERE)
    nvml.events = [43, 79]
    reader = NvidiaMeter(UUID, nvml)
    assert reader.read(0.0) == Reading(
        power_watts=118.25, power_limit_watts=130.0, temperature_c=71, memory_temperature_c=84.0, sm_clock_mhz=1665, memory_clock_mhz=7001,
        gpu_utilization_percent=97, memory_utilization_percent=64, used_bytes=3 << 30, free_bytes=5 << 30,
        throttle_reasons=("sw_power_cap",), slowdown_c=98.0, memory_slowdown_c=None,
        pcie_generation=1, pcie_width=1, pcie_max_generation=4, pcie_max_width=16, pcie_replays=12, ecc_corrected=5, ecc_uncorrected=0,
        energy_j=7500.0, energy_source="counter", xids=(43, 79),
    )  # fmt: skip
    assert reader.read(1.0).xids == ()
    assert nvml.open == 1, "one session for all readings"
    reader.close()
    reader.close()
    assert nvml.open == 0


def test_an_old_board_integrates_its_energy_and_leaves_unknown_what_it_does_not_tell() -> None:
    nvml = Nvml(PASCAL)
    nvml.fails["nvmlEventSetCreate"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    reader = NvidiaMeter(UUID, nvml)
    first = reader.read(0.0)
    assert (first.energy_j, first.energy_source, first.throttle_reasons) == (None, None, ("hw_thermal_slowdown",))
    nvml.answers["PowerUsage"] = 100_000
    later = reader.read(2.0)
    assert (later.energy_j, later.energy_source) == (218.25, "integrated")
    assert (later.memory_temperature_c, later.ecc_uncorrected, later.pcie_replays, later.gpu_utilization_percent) == (None,) * 4
    assert later.lost is None


@pytest.mark.parametrize(("call", "code", "words"), [
    ("nvmlDeviceGetPowerUsage", 15, "fallen off the bus"), ("nvmlDeviceGetTemperature", 16, "asks for a reset"),
    ("nvmlDeviceGetHandleByUUID", 6, "lists no card with this id"),
])  # fmt: skip
def test_a_lost_card_is_said_and_found_again(call: str, code: int, words: str) -> None:
    nvml = Nvml(AMPERE)
    reader = NvidiaMeter(UUID, nvml)
    nvml.fails[call] = code
    lost = reader.read(0.0)
    assert words in (lost.lost or "")
    assert replace(lost, lost=None) == Reading(), "nothing else is believed"
    assert nvml.open == 0
    nvml.fails.clear()
    assert reader.read(1.0).power_watts == 118.25


def test_no_driver_is_unknown_and_not_lost() -> None:
    nvml = Nvml(AMPERE)
    nvml.fails["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert NvidiaMeter(UUID, nvml).read(0.0) == Reading()


def test_a_polaris_card(tmp_path: Path) -> None:
    root = build_tree(tmp_path, "rx580_sysfs")
    card = replace(parse_cards("RX 580 8GB")[0], pci_address="0000:03:00.0")
    device = root / "class/drm/card0/device"
    hwmon = next(iter(device.glob("hwmon/hwmon*")), device / "hwmon/hwmon1")
    hwmon.mkdir(parents=True, exist_ok=True)
    for name, text in {"power1_average": "92000000", "power1_cap": "145000000", "temp1_label": "edge", "temp1_input": "67000",
                       "temp1_crit": "94000"}.items():
        (hwmon / name).write_text(text)
    (device / "pp_dpm_sclk").write_text("0: 300Mhz\n1: 1266Mhz *\n")
    (device / "pcie_replay_count").write_text("7\n")
    reader = meter(card, sys=root)
    assert reader is not None
    reader.read(0.0)
    reading = reader.read(1.0)
    assert (reading.power_watts, reading.power_limit_watts, reading.temperature_c) == (92.0, 145.0, 67.0)
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz, reading.pcie_replays) == (1266, None, 7)
    assert (reading.slowdown_c, reading.memory_slowdown_c) == (94.0, None)
    assert (reading.energy_j, reading.energy_source, reading.throttle_reasons) == (92.0, "integrated", None)
    assert reading.used_bytes == 13213696
    gone = meter(replace(card, pci_address="0000:09:00.0"), sys=root)
    assert gone is not None
    assert gone.read(0.0).lost is not None


def test_who_has_a_meter() -> None:
    assert meter(simulated_cpu_card(2**30)) is None
    assert meter(parse_cards("RTX 3060 Ti")[0]) is None, "described, not detected"


def test_the_worked_joules() -> None:
    energy = Energy()
    assert energy.add(100.0, 0.0) is None
    assert energy.add(120.0, 1.0) == 110.0
    assert energy.add(120.0, 61.0) == 110.0, "nothing is claimed of a minute without readings"
    assert energy.add(None, 62.0) == 110.0
