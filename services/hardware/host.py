"""The machine around the cards: memory and CPU."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from services.hardware import files
from services.sizing.types import Host


def read_host(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Host:
    """RAM from /proc/meminfo (no more than this container may use), CPU from /proc/cpuinfo; None for what isn't there."""
    info = files.text(proc / "cpuinfo") or ""
    total_bytes, available_bytes = _within_container(sys, *_memory(proc))
    flags = _first(info, "flags") or _first(info, "Features")  # Features: ARM
    return Host(
        ram_bytes=total_bytes,
        ram_available_bytes=available_bytes,
        cpu_model=_first(info, "model name") or _first(info, "Model"),
        cpu_count=len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or None,
        cpu_flags=tuple(sorted(flags.split())) if flags else (),
        machine=platform.machine() or None,
    )


def ram_available_bytes(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> int | None:
    """What the kernel would give to new programs now without swapping (MemAvailable), within this container's limit."""
    return _within_container(sys, *_memory(proc))[1]


def _memory(proc: Path) -> tuple[int | None, int | None]:
    info = files.text(proc / "meminfo") or ""
    return _kib(info, "MemTotal"), _kib(info, "MemAvailable")


def _within_container(sys: Path, total_bytes: int | None, available_bytes: int | None) -> tuple[int | None, int | None]:
    """The two figures, cut to the cgroup's limit (v2: memory.max; absent or "max" where there is none)."""
    limit_bytes = files.number(sys / "fs/cgroup/memory.max")
    used_bytes = files.number(sys / "fs/cgroup/memory.current")
    if limit_bytes is None or (total_bytes is not None and limit_bytes >= total_bytes):
        return total_bytes, available_bytes
    left_bytes = max(0, limit_bytes - used_bytes) if used_bytes is not None else limit_bytes
    return limit_bytes, left_bytes if available_bytes is None else min(available_bytes, left_bytes)


def _kib(info: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", info, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _first(info: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:[ \t]*(\S.*)$", info, re.MULTILINE)
    return match[1].strip() if match else None
