"""Memory of process trees and of cards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.hardware.memory import (
    CardLostError,
    device_memory,
    device_process_bytes,
    device_used_bytes,
    process_tree,
    tree_resident_bytes,
)
from tests.hardware.player import NvmlPlayer, build_tree

MIB = 2**20
GRANDCHILD = (
    "import subprocess, sys; hold = bytearray(%d * 2**20); hold[::4096] = b'x' * len(hold[::4096]);"
    "child = subprocess.Popen([sys.executable, '-c', 'hold = bytearray(48 * 2**20); hold[::4096] = b\"x\" * len(hold[::4096]);"
    "print(flush=True); input()'], stdin=subprocess.PIPE); input()"
)


def test_a_trees_memory_counts_grandchildren_once() -> None:
    parent = subprocess.Popen([sys.executable, "-c", GRANDCHILD % 32], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout
        parent.stdout.readline()
        assert len(process_tree(parent.pid)) == 2
        resident = tree_resident_bytes(parent.pid)
        assert resident is not None
        assert 80 * MIB < resident < 130 * MIB
    finally:
        parent.communicate(b"\n")
    assert tree_resident_bytes(parent.pid) is None


def test_rss_where_pss_cannot_be_read(tmp_path: Path) -> None:
    for pid, parent, extra in ((10, 1, {"statm": "500 100 50"}), (11, 10, {"smaps_rollup": "Rss: 900 kB\nPss:  300 kB\n"}), (12, 1, {})):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (odd ) name) S {parent} 0 0")
        for name, text in extra.items():
            (folder / name).write_text(text)
    assert process_tree(10, tmp_path) == (10, 11)
    assert tree_resident_bytes(10, tmp_path) == 100 * os.sysconf("SC_PAGE_SIZE") + 300 * 1024
    assert tree_resident_bytes(12, tmp_path) is None


def test_device_memory_of_an_nvidia_card() -> None:
    nvml = NvmlPlayer("mixed_rig")
    memory = device_memory("GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2", nvml=nvml)
    assert memory is not None
    assert (memory.total_bytes, memory.used_bytes, memory.free_bytes) == (8192 * MIB, 152 * MIB, 8040 * MIB)
    assert device_process_bytes("GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2", {4242, 4243, 1}, nvml) == 130 * MIB
    assert device_process_bytes("GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2", {1}, nvml) is None
    assert nvml.open == 0


@pytest.mark.parametrize("card_id", ["GPU-dead0000-3333-4444-5555-666677778888", "GPU-gone"])
def test_a_lost_card_is_an_error_of_its_own(card_id: str) -> None:
    with pytest.raises(CardLostError, match="fallen off the bus"):
        device_memory(card_id, nvml=NvmlPlayer("mixed_rig"))


def test_device_memory_of_an_amd_card(tmp_path: Path) -> None:
    sys_root = build_tree(tmp_path, "rx580_sysfs")
    memory = device_memory("0000:03:00.0", sys=sys_root)
    assert memory is not None
    assert memory.free_bytes == 8 * 2**30 - 13213696


def test_what_cannot_be_asked_is_none() -> None:
    assert device_memory("sim-0") is None
    assert device_memory("GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2", nvml=NvmlPlayer("version_mismatch")) is None
    assert device_used_bytes("sim-0") is None
    assert device_process_bytes("sim-0", {1}) is None
