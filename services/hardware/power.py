"""Power caps of NVIDIA cards, through NVML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.hardware import nvidia


class PowerError(Exception):
    """A cap can't be read or set. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Cap:
    """Watts; None where the card or driver doesn't tell."""

    card_id: str
    name: str
    cap_watts: float | None
    default_watts: float | None
    least_watts: float | None
    most_watts: float | None


def read_caps(nvml: Any | None = None) -> tuple[Cap, ...]:
    """Every card that has a UUID. Raises PowerError when the driver can't be used."""
    nvml = nvml or nvidia.load()
    try:
        with nvidia.session(nvml):
            handles = [_asked(nvml, "nvmlDeviceGetHandleByIndex", index) for index in range(nvml.nvmlDeviceGetCount())]
            return tuple(cap for handle in handles if handle is not None and (cap := _cap(nvml, handle)) is not None)
    except nvml.NVMLError as error:
        raise PowerError(f"NVML says: {nvidia.plainly(error)}.") from error


def set_cap(cap: Cap, watts: float, nvml: Any | None = None) -> None:
    """1. Outside of what the board allows: refused here, with the range. 2. Set. Raises PowerError."""
    if (cap.least_watts is not None and watts < cap.least_watts) or (cap.most_watts is not None and watts > cap.most_watts):
        raise PowerError(f"{cap.name} ({cap.card_id}) takes a cap from {cap.least_watts:.0f} to {cap.most_watts:.0f} W, not {watts:g} W.")
    nvml = nvml or nvidia.load()
    try:
        with nvidia.session(nvml):
            nvml.nvmlDeviceSetPowerManagementLimit(nvml.nvmlDeviceGetHandleByUUID(cap.card_id), round(watts * 1000))
    except nvml.NVMLError as error:
        why = {4: "only root may do that; run it with sudo", 3: "this card's cap can't be changed"}.get(nvidia.code_of(error) or 0)
        raise PowerError(f"{cap.name} ({cap.card_id}) was not set to {watts:g} W: {why or nvidia.plainly(error)}.") from error


def _cap(nvml: Any, handle: Any) -> Cap | None:
    uuid = _asked(nvml, "nvmlDeviceGetUUID", handle)
    if uuid is None:
        return None
    span = _asked(nvml, "nvmlDeviceGetPowerManagementLimitConstraints", handle)
    return Cap(
        _text(uuid), _text(_asked(nvml, "nvmlDeviceGetName", handle) or "NVIDIA card"),
        _watts(_asked(nvml, "nvmlDeviceGetPowerManagementLimit", handle)),
        _watts(_asked(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        _watts(span[0]) if span else None, _watts(span[1]) if span else None,
    )  # fmt: skip


def _asked(nvml: Any, name: str, *arguments: Any) -> Any:
    try:
        return getattr(nvml, name)(*arguments)
    except nvml.NVMLError:
        return None


def _watts(milliwatts: Any) -> float | None:
    return None if milliwatts is None else int(milliwatts) / 1000


def _text(value: Any) -> str:
    return value.decode("utf8", "replace") if isinstance(value, bytes) else str(value)
