"""How much and how long a container may take: memory, start-up, stopping."""

from __future__ import annotations

import math

from services.sizing.types import Card, Engine, Placement
from services.sizing.units import GIB, MIB

# Beside the engine: the worker itself (28 MiB, docs/footprint.md), a health check that starts (about 40 MiB), files in memory (/tmp, /run).
WORKER_OWN_BYTES = 256 * MIB
# The plan's host figure is an estimate for the whole process tree; a limit that is met kills the engine, so a quarter is added.
HOST_MARGIN = 1.25
GATEWAY_BYTES = 512 * MIB  # 41 MiB when idle (docs/footprint.md); pictures that wait for their client take most of the rest
FETCH_BYTES = 2 * GIB  # a download streams; converting a GGUF file holds a tensor or two at a time
TMP_BYTES = 256 * MIB
UNKNOWN_START_S = 900
LEAST_START_S = 120
KERNELS_S = 900  # kernels that the wheel carries as PTX are compiled once, at the first start: minutes on a rig's CPU
DRAIN_S = 30
GRACE_ABOVE_DRAIN_S = 15


def memory_limit(placement: Placement, shm_bytes: int | None) -> tuple[int | None, str]:
    """(bytes, the arithmetic in words) of a worker's container; None when the plan does not know what the host must give.

    limit = plan's host RAM at the peak of loading x 1.25 + 256 MiB + /dev/shm, rounded up to a MiB.
    Worked number: 612.3 MiB (llama.cpp with a 8B model on a GPU) -> 765.3 + 256 = 1022 MiB.
    """
    need = placement.report.host.ram_bytes if placement.report.host else None
    if need is None:
        return None, "no limit: the plan does not know how much host RAM this takes"
    shm = shm_bytes or 0
    limit = math.ceil((need * HOST_MARGIN + WORKER_OWN_BYTES + shm) / MIB) * MIB
    more = f" + {shm // MIB} MiB of /dev/shm" if shm else ""
    return limit, f"the plan's {need / MIB:.0f} MiB of host RAM x {HOST_MARGIN} + {WORKER_OWN_BYTES // MIB} MiB beside the engine{more}"


def start_limit_s(placement: Placement, card: Card) -> tuple[int, str]:
    """(seconds until a worker that is not ready counts as broken, the arithmetic in words).

    1. Nobody knows how long it loads: 900.
    2. Else 60 + 3 x the predicted load time, at least 120.
    3. llama.cpp on an NVIDIA card before Ampere: 900 more, because the first start compiles kernels.
    Worked number: 25.7 s on a P104-100 -> 60 + 77.1 = 138 + 900 = 1038.
    """
    load_s = placement.report.speed.load_s if placement.report.speed else None
    if load_s is None:
        seconds, why = UNKNOWN_START_S, "load time not predicted"  # 1
    else:
        seconds, why = max(LEAST_START_S, math.ceil(60 + 3 * load_s)), f"predicted load time {load_s:.0f} s x 3 + 60 s"  # 2
    if placement.choice.engine is Engine.LLAMACPP and _compiles(card):
        seconds, why = seconds + KERNELS_S, f"{why} + {KERNELS_S} s to compile kernels at the first start"  # 3
    return seconds, why


def _compiles(card: Card) -> bool:
    """NVIDIA cards for which llama.cpp's CUDA builds carry PTX only (ggml-cuda/CMakeLists.txt: `-virtual` before Ampere; images.yaml)."""
    if card.vendor != "nvidia" or card.compute_capability is None:
        return False
    major, _, minor = card.compute_capability.partition(".")
    return (int(major), int(minor or 0)) < (8, 0)
