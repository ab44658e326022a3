"""An AMD card's telemetry from amdgpu's files in sysfs (kernel documentation: gpu/amdgpu/thermal)."""

from __future__ import annotations

import re
from pathlib import Path

from services.hardware import amd, files
from services.hardware.telemetry import Energy, Reading


class AmdMeter:
    """Power is integrated to energy: amdgpu has no counter in sysfs. Throttle reasons and Xids are not there either."""

    def __init__(self, pci_address: str, sys: Path = Path("/sys")) -> None:
        self._address, self._sys = pci_address, sys
        self._energy = Energy()

    def read(self, now: float) -> Reading:
        device = amd.device_folder(self._sys, self._address)
        if device is None:
            return Reading(lost="the kernel lists no card at this PCI address any more; check its riser and power cable, then reboot")
        total, used = files.number(device / "mem_info_vram_total"), files.number(device / "mem_info_vram_used")
        watts = _scaled(_first(device, "power1_average", "power1_input"), 1e-6)
        joules = self._energy.add(watts, now)
        link = amd.link(device)
        return Reading(
            power_watts=watts, power_limit_watts=_scaled(_first(device, "power1_cap"), 1e-6),
            temperature_c=_temperature(device, "junction", "edge"), memory_temperature_c=_temperature(device, "mem"),
            slowdown_c=_temperature(device, "junction", "edge", kind="crit"), memory_slowdown_c=_temperature(device, "mem", kind="crit"),
            sm_clock_mhz=_clock(device, "sclk"), memory_clock_mhz=_clock(device, "mclk"),
            gpu_utilization_percent=files.number(device / "gpu_busy_percent"),
            memory_utilization_percent=files.number(device / "mem_busy_percent"),
            used_bytes=used, free_bytes=None if total is None or used is None else max(0, total - used),
            pcie_generation=link.generation if link else None, pcie_width=link.width if link else None,
            pcie_max_generation=link.max_generation if link else None, pcie_max_width=link.max_width if link else None,
            pcie_replays=files.number(device / "pcie_replay_count"),
            energy_j=joules, energy_source=None if joules is None else "integrated",
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


def _first(device: Path, *names: str) -> int | None:
    """The first of these files of the card's hwmon folder."""
    found = (files.number(path) for name in names for path in sorted(device.glob(f"hwmon/hwmon*/{name}")))
    return next((value for value in found if value is not None), None)


def _temperature(device: Path, *labels: str, kind: str = "input") -> float | None:
    """The sensor with the first of these labels (`kind` crit: its critical temperature); Polaris has one without a label, the edge."""
    sensors = {files.text(path): path for path in sorted(device.glob("hwmon/hwmon*/temp*_label"))}
    for label in labels:
        if label in sensors:
            return _scaled(files.number(sensors[label].with_name(sensors[label].name.replace("_label", f"_{kind}"))), 1e-3)
    return _scaled(_first(device, f"temp1_{kind}"), 1e-3) if "edge" in labels and not sensors else None


def _clock(device: Path, name: str) -> int | None:
    """The level with a star in `pp_dpm_sclk`: "1: 1266Mhz *"."""
    match = re.search(r"(\d+)Mhz \*", files.text(device / f"pp_dpm_{name}") or "", re.IGNORECASE)
    return int(match[1]) if match else None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
