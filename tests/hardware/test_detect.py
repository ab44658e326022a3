"""detect() against captured driver output: cards as they are, broken drivers as notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.hardware.detect import Detection, detect
from services.hardware.host import ram_available_bytes, read_host
from services.sizing.cards import spec_of
from services.sizing.types import PcieLink
from tests.hardware.player import NvmlPlayer, build_tree

MIB = 2**20


def look(tmp_path: Path, nvml: str = "no_driver", sys: str | None = None, amdgpu_ids: Path = Path("/nonexistent")) -> Detection:
    (tmp_path / "sys").mkdir()
    if sys:
        build_tree(tmp_path / "sys", sys)
    player = NvmlPlayer(nvml)
    found = detect(proc=build_tree(tmp_path / "proc", "celeron_proc"), sys=tmp_path / "sys", nvml=player, amdgpu_ids=amdgpu_ids)
    assert player.open == 0, "NVML was not shut down"
    return found


def test_an_old_driver_without_prefix(tmp_path: Path) -> None:
    (card,) = look(tmp_path, "p106_100_old_driver").cards
    assert (card.name, card.spec, card.vendor) == ("P106-100", "P106-100 6GB", "nvidia")
    assert card.id == "GPU-5a3f2c1e-0000-4c2b-9d10-1f0a6b7c8d9e"
    assert (card.total_bytes, card.free_bytes) == (6075 * MIB, 6064 * MIB)
    assert (card.compute_capability, card.driver_version) == ("6.1", "418.113")
    assert (card.pci_address, card.pci_device_id) == ("0000:01:00.0", "1c07")
    assert card.link == PcieLink(1, 1, 1, 16)
    assert card.power_limit_watts == 120.0
    assert not card.simulated


def test_a_mixed_rig_with_a_lost_card(tmp_path: Path) -> None:
    found = look(tmp_path, "mixed_rig")
    assert [(c.spec, c.index, c.compute_capability) for c in found.cards] == [("RTX 3060 Ti 8GB", 0, "8.6"), ("CMP 50HX", 1, "7.5")]
    assert found.cards[0].link == PcieLink(1, 16, 3, 16)  # idle: generation 1 now, 3 at work
    assert found.cards[1].power_limit_watts is None
    lost = [note for note in found.notes if "fallen off the bus" in note]
    assert len(lost) == 1
    assert "card 2 at 0000:07:00.0" in lost[0]


@pytest.mark.parametrize(("capture", "words"), [
    ("version_mismatch", "different versions"), ("not_loaded", "modprobe nvidia"), ("no_driver", "not installed"),
])
def test_a_broken_driver_is_a_note(tmp_path: Path, capture: str, words: str) -> None:
    found = look(tmp_path, capture, "rx6600_sysfs")
    notes = [note for note in found.notes if note.startswith("NVIDIA")]
    assert len(notes) == 1
    assert words in notes[0]
    assert "1 NVIDIA card(s) (1c07)" in notes[0]


def test_nothing_at_all_says_what_was_tried(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.cards == ()
    assert [note.split(":")[0] for note in found.notes] == ["NVIDIA", "AMD"]


def test_a_card_that_the_driver_does_not_list(tmp_path: Path) -> None:
    found = look(tmp_path, "mixed_rig", "rx6600_sysfs")
    assert any("1c07 at 0000:0b:00.0" in note and "580" in note for note in found.notes)


def test_the_real_module_on_this_machine_does_not_raise(tmp_path: Path) -> None:
    assert isinstance(detect(), Detection)


def test_rx_580_named_by_libdrms_table(tmp_path: Path) -> None:
    ids = tmp_path / "amdgpu.ids"
    ids.write_text("# List of AMDGPU IDs\n1.0.0\n67DF,\tEF,\tAMD Radeon RX 570 Series\n67DF,\tE7,\tAMD Radeon RX 580 Series\n")
    (card,) = look(tmp_path, sys="rx580_sysfs", amdgpu_ids=ids).cards
    assert (card.id, card.vendor, card.name) == ("0000:03:00.0", "amd", "AMD Radeon RX 580 Series")
    assert (card.spec, card.gfx, card.compute_capability) == ("RX 580 8GB", "gfx803", None)
    assert (card.total_bytes, card.free_bytes) == (8 * 2**30, 8 * 2**30 - 13213696)
    assert card.render_node == "/dev/dri/renderD128"
    assert card.link == PcieLink(1, 1, 3, 16)
    assert (card.driver_version, card.power_limit_watts) == ("6.12.12", 145.0)


def test_an_id_shared_by_several_products_promises_no_more_than_the_slowest(tmp_path: Path) -> None:
    (card,) = look(tmp_path, sys="rx580_sysfs").cards  # no table installed
    assert card.name == "AMD GPU 67df"
    spec = spec_of(card)
    assert spec is not None
    assert spec.vram_bytes == 8 * 2**30
    assert (spec.bandwidth_bytes_per_s or 0) <= 256e9


def test_a_card_behind_its_own_bridges_shows_the_slots_link(tmp_path: Path) -> None:
    found = look(tmp_path, sys="rx6600_sysfs")
    (card,) = found.cards
    assert (card.gfx, card.link) == ("gfx1032", PcieLink(2, 1, 4, 8))
    assert any("0000:0a:00.0 left out" in note for note in found.notes)
    assert any("687f at 0000:0c:00.0" in note and "kernel driver: none" in note for note in found.notes)


def test_host(tmp_path: Path) -> None:
    host = read_host(build_tree(tmp_path, "celeron_proc"), tmp_path / "nothing")
    assert (host.ram_bytes, host.ram_available_bytes) == (7675904 * 1024, 6291456 * 1024)
    assert (host.cpu_model, host.cpu_count) == ("Intel(R) Celeron(R) G5905 CPU @ 3.50GHz", 2)
    assert host.cpu_flags == ("fpu", "popcnt", "sse4_1", "sse4_2")


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    proc = build_tree(tmp_path, "celeron_proc")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{2 * 2**30}\n")
    (group / "memory.current").write_text(f"{2**30}\n")
    host = read_host(proc, tmp_path / "sys")
    assert (host.ram_bytes, host.ram_available_bytes) == (2 * 2**30, 2**30)
    (group / "memory.max").write_text("max\n")
    assert ram_available_bytes(proc, tmp_path / "sys") == 6291456 * 1024


def test_unknown_is_none(tmp_path: Path) -> None:
    host = read_host(tmp_path / "no_proc", tmp_path / "no_sys")
    assert (host.ram_bytes, host.ram_available_bytes, host.cpu_model, host.cpu_count, host.cpu_flags) == (None, None, None, None, ())
