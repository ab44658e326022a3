"""An NVIDIA card's telemetry through NVML, one session kept open: initialising it takes a tenth of a second on some boards."""

from __future__ import annotations

from typing import Any

from services.hardware import nvidia
from services.hardware.telemetry import Energy, Reading

# nvml.h: nvmlClocksEventReason* (before driver 535: nvmlClocksThrottleReason*, same bits). An idle GPU is not held down.
REASONS = {0x2: "applications_clocks_setting", 0x4: "sw_power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost", 0x20: "sw_thermal_slowdown",
           0x40: "hw_thermal_slowdown", 0x80: "hw_power_brake_slowdown", 0x100: "display_clock_setting"}
RESET_REQUIRED = 16
TIMEOUT = 10


class NvidiaMeter:
    """Opens NVML at the first reading, and again after it was lost. Energy is the card's own counter where it has one (Volta and newer),
    else integrated from power."""

    def __init__(self, card_id: str, nvml: Any | None = None) -> None:
        self._card_id, self._nvml = card_id, nvml
        self._handle: Any | None = None
        self._events: Any | None = None
        self._energy = Energy()
        self._lost: str | None = None

    def read(self, now: float) -> Reading:
        self._lost = None
        try:
            handle = self._open()
            memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
            reading = self._figures(handle, memory, now)
        except _NoDriver as error:
            self.close()
            return Reading(lost=str(error)) if error.card_lost else Reading()
        if self._lost is not None:
            self.close()
            return Reading(lost=self._lost)
        return reading

    def close(self) -> None:
        """Never raises: what is closed may be gone."""
        nvml = self._nvml
        if self._handle is None or nvml is None:
            return
        self._handle = None
        try:
            if self._events is not None:
                nvml.nvmlEventSetFree(self._events)
            nvml.nvmlShutdown()
        except nvml.NVMLError:
            pass
        self._events = None

    def _open(self) -> Any:
        if self._handle is not None:
            return self._handle
        try:
            self._nvml = nvml = self._nvml or nvidia.load()
        except ImportError as error:
            raise _NoDriver(str(error)) from error
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise _NoDriver(nvidia.plainly(error)) from error
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(self._card_id)
        except nvml.NVMLError as error:
            nvml.nvmlShutdown()
            gone = nvidia.code_of(error) in (nvidia.GPU_IS_LOST, nvidia.NOT_FOUND)
            raise _NoDriver(_lost_words(error), card_lost=gone) from error
        self._events = self._listen(self._handle)
        return self._handle

    def _listen(self, handle: Any) -> Any | None:
        """An event set for Xids; None where this board or driver has none."""
        nvml = self._nvml
        assert nvml is not None
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except (nvml.NVMLError, AttributeError):  # an old binding lacks the calls
            return None
        return events

    def _xids(self) -> tuple[int, ...]:
        """Those that wait, without waiting for more."""
        found: list[int] = []
        nvml = self._nvml
        while self._events is not None and nvml is not None and len(found) < 32:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError as error:
                if nvidia.code_of(error) != TIMEOUT:
                    self._note(error)
                break
            found.append(int(event.eventData))
        return tuple(found)

    def _figures(self, handle: Any, memory: Any, now: float) -> Reading:
        nvml = self._nvml
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        watts = _scaled(self._ask("nvmlDeviceGetPowerUsage", handle), 1e-3)
        counter_j = _scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption", handle), 1e-3)
        integrated_j = self._energy.add(watts, now)
        energy_j = integrated_j if counter_j is None else counter_j
        return Reading(
            power_watts=watts, power_limit_watts=_scaled(self._ask("nvmlDeviceGetEnforcedPowerLimit", handle), 1e-3),
            temperature_c=self._ask("nvmlDeviceGetTemperature", handle, 0), memory_temperature_c=self._memory_temperature(handle),
            slowdown_c=self._threshold(handle, 1), memory_slowdown_c=self._threshold(handle, 2),
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", handle, 1), memory_clock_mhz=self._ask("nvmlDeviceGetClockInfo", handle, 2),
            gpu_utilization_percent=int(use.gpu) if use else None, memory_utilization_percent=int(use.memory) if use else None,
            used_bytes=int(memory.used) if memory else None, free_bytes=int(memory.free) if memory else None,
            throttle_reasons=self._reasons(handle),
            pcie_generation=self._ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
            pcie_width=self._ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
            pcie_max_generation=self._ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
            pcie_max_width=self._ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
            pcie_replays=self._ask("nvmlDeviceGetPcieReplayCounter", handle),
            ecc_corrected=self._ask("nvmlDeviceGetTotalEccErrors", handle, 0, 1),
            ecc_uncorrected=self._ask("nvmlDeviceGetTotalEccErrors", handle, 1, 1),
            energy_j=energy_j, energy_source=None if energy_j is None else "integrated" if counter_j is None else "counter",
            xids=self._xids() if nvml is not None else (),
        )  # fmt: skip

    def _reasons(self, handle: Any) -> tuple[str, ...] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return None if bits is None else tuple(name for bit, name in REASONS.items() if int(bits) & bit)

    def _threshold(self, handle: Any, kind: int) -> float | None:
        """nvml.h, nvmlTemperatureThresholds_t: 1 SLOWDOWN, 2 MEM_MAX. Some boards say 0 for what they don't have."""
        return float(self._ask("nvmlDeviceGetTemperatureThreshold", handle, kind) or 0) or None

    def _memory_temperature(self, handle: Any) -> float | None:
        """A field of its own; only HBM and GDDR6X boards have it, and some say 0."""
        values = self._ask("nvmlDeviceGetFieldValues", handle, [82])  # NVML_FI_DEV_MEMORY_TEMP
        if not values or values[0].nvmlReturn != 0:
            return None
        return float(values[0].value.uiVal) or None

    def _ask(self, name: str, *arguments: Any) -> Any:
        """The answer, or None where this card, driver or binding doesn't know the question; a card that is gone is noted."""
        nvml = self._nvml
        function = getattr(nvml, name, None)
        if nvml is None or function is None or self._lost is not None:
            return None
        try:
            return function(*arguments)
        except nvml.NVMLError as error:
            self._note(error)
            return None

    def _note(self, error: Exception) -> None:
        if nvidia.code_of(error) in (nvidia.GPU_IS_LOST, RESET_REQUIRED):
            self._lost = _lost_words(error)


class _NoDriver(Exception):
    """NVML, or this card in it, can't be asked now."""

    def __init__(self, sentence: str, *, card_lost: bool = False) -> None:
        super().__init__(sentence)
        self.card_lost = card_lost


def _lost_words(error: Exception) -> str:
    if nvidia.code_of(error) == nvidia.NOT_FOUND:
        return "the driver lists no card with this id any more; check its riser and power cable, then reboot"
    if nvidia.code_of(error) == RESET_REQUIRED:
        return "the driver asks for a reset of the card; reboot"
    return nvidia.plainly(error)


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
