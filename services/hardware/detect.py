"""What is in this machine: the cards that can be used, the host around them, and notes on what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.hardware import amd, nvidia
from services.hardware.host import read_host
from services.hardware.pci import display_devices
from services.sizing.types import Card, Host


@dataclass(frozen=True, slots=True)
class Detection:
    """Real cards only (a simulated one is never detected). `notes` are sentences for people: what was tried, what to do."""

    host: Host
    cards: tuple[Card, ...]
    notes: tuple[str, ...]


def detect(
    *,
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    nvml: Any | None = None,
    amdgpu_ids: Path = amd.AMDGPU_IDS,
) -> Detection:
    """Look at the machine. Never raises for a driver that is broken or absent: that is a note.

    `proc`, `sys` and `amdgpu_ids` are where the kernel's files lie, `nvml` is the pynvml module or a stand-in that plays a capture.
    """
    on_bus = display_devices(sys)
    nvidia_cards, nvidia_notes = nvidia.read_cards(nvml, on_bus)
    amd_cards, amd_notes = amd.read_cards(sys, on_bus, amdgpu_ids)
    return Detection(read_host(proc, sys), nvidia_cards + amd_cards, nvidia_notes + amd_notes)
