"""Memory as it is now: what a process tree holds of the host's, what is used and free of a card's."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.hardware import amd, files, nvidia


class CardLostError(Exception):
    """The driver answers, but not for this card any more. The message says what to do."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one card now, over all programs that use it."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


def tree_resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Host memory of `pid` and everything below it, in bytes; None when the process isn't there.

    PSS (each page shared by n processes counts 1/n, so a tree's pages count once), RSS for a process that doesn't let us read it.
    """
    sizes = [_process_bytes(proc / str(one)) for one in process_tree(pid, proc)]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def process_resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Host memory of this one process (PSS, else RSS), in bytes."""
    return _process_bytes(proc / str(pid))


def process_tree(pid: int, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """`pid` and all its descendants now, parents before children; zombies are left out."""
    children: dict[int, list[int]] = defaultdict(list)
    alive = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        fields = (files.text(entry / "stat") or "").rpartition(")")[2].split()  # the name before it may hold blanks and brackets
        if len(fields) > 1 and fields[0] not in "ZX":
            alive.add(int(entry.name))
            children[int(fields[1])].append(int(entry.name))
    found: list[int] = [pid] if pid in alive else []
    for one in found:
        found.extend(children[one])
    return tuple(found)


def _process_bytes(folder: Path) -> int | None:
    match = re.search(r"^Pss:\s+(\d+) kB", files.text(folder / "smaps_rollup") or "", re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    fields = (files.text(folder / "statm") or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


def device_memory(card_id: str, *, sys: Path = Path("/sys"), nvml: Any | None = None) -> DeviceMemory | None:
    """The card's memory now, by UUID through NVML, by PCI address through amdgpu.

    None where it can't be asked (a simulated card, no driver).
    Raises CardLostError when the driver works and doesn't know the card any more.
    """
    if device := amd.device_folder(sys, card_id):
        total, used = files.number(device / "mem_info_vram_total"), files.number(device / "mem_info_vram_used")
        return DeviceMemory(total, used, max(0, total - used)) if total is not None and used is not None else None
    if not card_id.startswith("GPU-"):
        return None
    nvml = nvml or nvidia.load()
    try:
        with nvidia.session(nvml):
            memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(card_id))
    except nvml.NVMLError as error:
        if nvidia.code_of(error) in (nvidia.GPU_IS_LOST, nvidia.NOT_FOUND):
            raise CardLostError(f"the card {card_id} doesn't answer any more: {_lost(error)}.") from error
        return None
    return DeviceMemory(int(memory.total), int(memory.used), int(memory.free))


def device_used_bytes(card_id: str) -> int | None:
    """Bytes of the card in use now by all programs; None where it can't be asked or the card is lost."""
    try:
        memory = device_memory(card_id)
    except CardLostError:
        return None
    return memory.used_bytes if memory else None


def device_process_bytes(card_id: str, pids: Collection[int], nvml: Any | None = None) -> int | None:
    """Bytes of an NVIDIA card held by these processes; None where NVML doesn't tell (AMD, containers with their own pids)."""
    if not card_id.startswith("GPU-"):
        return None
    nvml = nvml or nvidia.load()
    try:
        with nvidia.session(nvml):
            running = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID(card_id))
    except nvml.NVMLError:
        return None
    sizes = [process.usedGpuMemory for process in running if process.pid in pids]
    return sum(sizes) if sizes and None not in sizes else None


def _lost(error: Exception) -> str:
    if nvidia.code_of(error) == nvidia.NOT_FOUND:
        return "the driver lists no card with this id; it was removed or has fallen off the bus; check its riser, then reboot"
    return nvidia.plainly(error)
