"""The state of each card beside what `rigserve detect` reads: power, persistence, memory faults, PCIe replays."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.doctor.commands import NOT_THERE, Output, Run
from services.doctor.readings import CardHealth, Cards, Driver
from services.hardware import amd, files, nvidia
from services.hardware.pci import PciDevice
from services.sizing.types import Card

MODINFO = ("modinfo", "-F", "version", "nvidia")
_VERSION = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")
_RETIRED_CAUSES = (0, 1)  # nvml.h, nvmlPageRetirementCause_t: several single-bit errors, one double-bit error


def read_cards(sys: Path, on_bus: tuple[PciDevice, ...], nvml: Any, amdgpu_ids: Path) -> Cards:
    """The cards that answer, each with its health, and sentences on those that don't. Not bounded in time: a lost card may hang NVML."""
    module = nvml or nvidia.load()
    nvidia_cards, nvidia_notes = nvidia.read_cards(module, on_bus)
    amd_cards, amd_notes = amd.read_cards(sys, on_bus, amdgpu_ids)
    health = _nvidia_health(module, nvidia_cards) + tuple(_amd_health(sys, card) for card in amd_cards)
    return Cards(nvidia_cards + amd_cards, health, nvidia_notes + amd_notes)


def _nvidia_health(nvml: Any, cards: tuple[Card, ...]) -> tuple[CardHealth, ...]:
    if not cards:
        return ()
    try:
        with nvidia.session(nvml):
            return tuple(_ask_card(nvml, card) for card in cards)
    except nvml.NVMLError:
        return ()


def _ask_card(nvml: Any, card: Card) -> CardHealth:
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(card.id)
    except nvml.NVMLError:
        return CardHealth(card.id)

    def ask(name: str, *more: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *more)
        except nvml.NVMLError:
            return None

    default_mw, enforced_mw = ask("nvmlDeviceGetPowerManagementDefaultLimit"), ask("nvmlDeviceGetEnforcedPowerLimit")
    ecc, persistence = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetPersistenceMode")
    busy = ask("nvmlDeviceGetUtilizationRates")
    bad, pending = _bad_pages(ask)
    return CardHealth(
        card.id,
        persistence=None if persistence is None else bool(persistence),
        power_default_watts=None if default_mw is None else default_mw / 1000,
        power_enforced_watts=None if enforced_mw is None else enforced_mw / 1000,
        ecc_on=None if ecc is None else bool(ecc[0]),
        bad_pages=bad,
        bad_pages_pending=pending,
        replays=ask("nvmlDeviceGetPcieReplayCounter"),
        busy_percent=None if busy is None else int(busy.gpu),
    )


def _bad_pages(ask: Callable[..., Any]) -> tuple[int | None, bool | None]:
    """Memory taken out of use: rows remapped for uncorrectable errors (Ampere and later), else pages retired (before)."""
    rows = ask("nvmlDeviceGetRemappedRows")  # corrected, uncorrected, pending, failed
    if rows is not None:
        return int(rows[0]) + int(rows[1]), bool(rows[2])
    lists = [ask("nvmlDeviceGetRetiredPages", cause) for cause in _RETIRED_CAUSES]
    known = [len(pages) for pages in lists if pages is not None]
    pending = ask("nvmlDeviceGetRetiredPagesPendingStatus")
    return (sum(known) if known else None), (None if pending is None else bool(pending))


def _amd_health(sys: Path, card: Card) -> CardHealth:
    device = amd.device_folder(sys, card.id)
    if device is None:
        return CardHealth(card.id)
    default_uw = next((files.number(path) for path in sorted(device.glob("hwmon/hwmon*/power1_cap_default"))), None)
    bad = files.text(device / "ras/gpu_vram_bad_pages")
    return CardHealth(
        card.id,
        power_default_watts=None if default_uw is None else default_uw / 1e6,
        power_enforced_watts=card.power_limit_watts,
        bad_pages=None if bad is None else len(bad.splitlines()),
        replays=files.number(device / "pcie_replay_count"),
        busy_percent=files.number(device / "gpu_busy_percent"),
    )


def read_driver(proc: Path, sys: Path, run: Run) -> Driver:
    """NVIDIA's kernel driver: as loaded, else as installed (modinfo). A driver that ignores its only card is installed but not loaded."""
    banner = files.text(proc / "driver/nvidia/version")
    loaded = banner is not None or (sys / "module/nvidia").is_dir()
    version = _VERSION.search(banner or "") or _VERSION.search(files.text(sys / "module/nvidia/version") or "")
    if version is None:
        installed = run(MODINFO)
        said = installed.out if isinstance(installed, Output) and installed.code != NOT_THERE else ""
        version = _VERSION.search(said)
    return Driver(version[1] if version else None, loaded, None if banner is None else "Open Kernel Module" in banner)
