"""A large GPU made to look like a small card: a process holds what is too much of its memory (ballast), so that any engine, whatever
allocator it uses, meets a real end of memory, its CUDA context counted.

    python -m tests.gpu.cap FREE_BYTES     (CUDA_VISIBLE_DEVICES names the card)

allocates all but FREE_BYTES, prints one JSON line, and holds on until its standard input ends. Through the driver's own library, so that it
needs no engine's environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK_BYTES = 2 * 2**20  # the driver hands out memory in such pages
TOLERANCE_BYTES = 8 * 2**20
ROUGH_BYTES = 512 * 2**20
START_S = 30.0


class CapError(Exception):
    """The card can't be made small. The message says why."""


def ballast_bytes(free_bytes: int, wanted_free_bytes: int) -> int:
    """What must be held so that `wanted_free_bytes` are left, in whole pages, never leaving less.

    Worked number: 79.2 GiB free, 8 GiB wanted: 71.2 GiB are 36,454 whole pages of 2 MiB and a bit.
    """
    if free_bytes < wanted_free_bytes:
        raise CapError(f"{free_bytes / 2**30:.2f} GiB of the card are free, fewer than the {wanted_free_bytes / 2**30:.2f} GiB to emulate")
    return (free_bytes - wanted_free_bytes) // BLOCK_BYTES * BLOCK_BYTES


def hold(wanted_free_bytes: int, cuda: Any) -> dict[str, int]:
    """Take the ballast through the CUDA driver API (`cuda`: libcuda). The context that this needs is counted: free memory is asked for
    after it was made, and again in the end."""
    _check(cuda, "cuInit", 0)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    _check(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    _check(cuda, "cuCtxSetCurrent", context)
    held = 0
    for leave in (ROUGH_BYTES, 0):  # the driver's page tables take some of what is left: nearly all first, then what is still too much
        size = max(0, ballast_bytes(_free(cuda)[0], wanted_free_bytes) - leave)
        if size:
            _check(cuda, "cuMemAlloc_v2", ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(size))
        held += size
    free, total = _free(cuda)
    if abs(free - wanted_free_bytes) > TOLERANCE_BYTES:
        raise CapError(f"{free} bytes are free instead of {wanted_free_bytes}: another program uses this card; stop it")
    return {"held_bytes": held, "free_bytes": free, "total_bytes": total}


def _free(cuda: Any) -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _check(cuda, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def _check(cuda: Any, name: str, *arguments: Any) -> None:
    code = getattr(cuda, name)(*arguments)
    if code != 0:
        raise CapError(f"{name} failed with CUDA error {code}")


@dataclass
class Cap:
    """While it is entered, the card of this id has `wanted_free_bytes` free."""

    card_id: str
    wanted_free_bytes: int
    free_bytes: int = 0

    def __enter__(self) -> Cap:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.cap", str(self.wanted_free_bytes)], env={**os.environ, "CUDA_VISIBLE_DEVICES": self.card_id},
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.startswith("{"):
            self._end()
            raise CapError(line.strip() or "the ballast process printed nothing")
        self.free_bytes = json.loads(line)["free_bytes"]
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._process.communicate(timeout=START_S)


def main() -> int:
    try:
        told = hold(int(sys.argv[1]), ctypes.CDLL("libcuda.so.1"))
    except (CapError, OSError) as error:
        print(error, flush=True)
        return 1
    print(json.dumps(told), flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
