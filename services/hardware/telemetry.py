"""One card as it is this second. Every figure is None where the card or its driver doesn't tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from services.sizing.types import Card

EnergySource = Literal["counter", "integrated"]
LONGEST_GAP_S = 10.0  # between two readings of power: across a longer one nothing is claimed


@dataclass(frozen=True, slots=True)
class Reading:
    """`throttle_reasons`: why the clocks are held down now; empty: they are not. `xids`: those that came since the last reading.
    `energy_j` counts from the driver's load (`counter`) or from this meter's start (`integrated` from power). `lost`: why the card is
    gone; then all else is None. ECC counts are of the card's life. `slowdown_c`, `memory_slowdown_c`: where the driver slows it down."""

    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    gpu_utilization_percent: int | None = None
    memory_utilization_percent: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None
    pcie_replays: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    energy_j: float | None = None
    energy_source: EnergySource | None = None
    slowdown_c: float | None = None
    memory_slowdown_c: float | None = None
    xids: tuple[int, ...] = ()
    lost: str | None = None


class Meter(Protocol):
    """Reads one card. Calls may block as long as a driver that hangs: use it in a thread of its own."""

    def read(self, now: float) -> Reading: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Energy:
    """Joules from power, by the trapezoid rule. Worked number: 100 W, one second later 120 W: 110 J."""

    joules: float | None = None
    _watts: float | None = None
    _at_s: float = 0.0

    def add(self, watts: float | None, now: float) -> float | None:
        """The sum so far; None before the second reading."""
        if watts is not None and self._watts is not None and now - self._at_s <= LONGEST_GAP_S:
            self.joules = (self.joules or 0.0) + (watts + self._watts) / 2 * (now - self._at_s)
        self._watts, self._at_s = watts, now
        return self.joules


def meter(card: Card, *, sys: Path = Path("/sys"), nvml: Any | None = None) -> Meter | None:
    """The meter of a card; None for a simulated one, and where no driver knows the id."""
    from services.hardware.telemetry_amd import AmdMeter
    from services.hardware.telemetry_nvidia import NvidiaMeter

    if card.vendor == "nvidia" and card.id.startswith("GPU-"):
        return NvidiaMeter(card.id, nvml)
    if card.vendor == "amd" and card.pci_address is not None:
        return AmdMeter(card.pci_address, sys)
    return None
