"""Plays a trace of NVML's answers, one line a second, to NvidiaMeter: what a card said while it heated, cooled, or fell off the bus.

A trace is JSON Lines in the units of NVML itself (milliwatts, degrees), keyed by call; what a line leaves out stays as it was. Traces that
were not recorded on a card say so in their first line.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

from services.hardware.telemetry import Reading
from services.hardware.telemetry_nvidia import NvidiaMeter

TRACES = Path(__file__).parent / "captures"


class NvmlTrace:
    """One card. `next()` goes on by a second; {"error": N} is that return code; what the trace has not is NOT_SUPPORTED."""

    NVMLError = pynvml.NVMLError
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, name: str) -> None:
        lines = [json.loads(line) for line in (TRACES / f"{name}.jsonl").read_text(encoding="utf8").splitlines()]
        self.about: str = lines[0]["about"]
        self._lines, self.now, self._xids = lines[1:], dict[str, Any](), list[int]()

    def __len__(self) -> int:
        return len(self._lines)

    def next(self) -> bool:
        """False when the trace is over; then the last second stands."""
        if not self._lines:
            return False
        line = self._lines.pop(0)
        self._xids += line.pop("xids", [])
        self.now |= line
        return True

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: object) -> None: ...

    def nvmlEventSetFree(self, events: object) -> None: ...

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:
        if not self._xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self._xids.pop(0))

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[SimpleNamespace]:
        value = self._answer("memory_temperature")
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=value))]

    def nvmlDeviceGetTemperatureThreshold(self, handle: str, kind: int) -> int:
        return int(self._answer({1: "slowdown", 2: "mem_max"}[kind]))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)
        return lambda handle, *arguments: self._answer(name.removeprefix("nvmlDeviceGet"))

    def _answer(self, name: str) -> Any:
        value = self.now.get(name, {"error": pynvml.NVML_ERROR_NOT_SUPPORTED})
        if isinstance(value, dict) and "error" in value:
            raise pynvml.NVMLError(value["error"])
        return value


class TraceMeter(NvidiaMeter):
    """A meter that goes on by one second of the trace at each reading."""

    def __init__(self, name: str) -> None:
        self.trace = NvmlTrace(name)
        super().__init__("GPU-trace", self.trace)

    def read(self, now: float) -> Reading:
        self.trace.next()
        return super().read(now)
