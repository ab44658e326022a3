"""AMD cards through the amdgpu driver's files in sysfs; no ROCm needed, so Polaris and Vega are seen as well."""

from __future__ import annotations

import re
from pathlib import Path

from services.hardware import files
from services.hardware.pci import AMD, PciDevice, of_vendor
from services.sizing.cards import identify
from services.sizing.types import Card, PcieLink

AMDGPU_IDS = Path("/usr/share/libdrm/amdgpu.ids")  # libdrm's table "device, revision, name", where it is installed
_GENERATION_BY_GT_S = {"2.5": 1, "5": 2, "5.0": 2, "8": 3, "8.0": 3, "16": 4, "16.0": 4, "32": 5, "32.0": 5, "64": 6, "64.0": 6}


def read_cards(sys: Path, on_bus: tuple[PciDevice, ...], amdgpu_ids: Path = AMDGPU_IDS) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """Every AMD card with memory of its own under the amdgpu driver, and notes on those that can't be used."""
    cards: list[Card] = []
    notes: list[str] = []
    listed = set()
    for device in _drm_devices(sys):
        address = _address(device)
        listed.add(address)
        total_bytes = files.number(device / "mem_info_vram_total")
        if not total_bytes:
            notes.append(f"AMD: the card at {address} left out: its driver tells no memory size (old radeon driver, or a lost card).")
            continue
        cards.append(_read(sys, device, address, total_bytes, len(cards), amdgpu_ids))
    notes += [
        f"AMD: the card {device.device_id} at {device.address} is on the PCI bus but has no graphics node "
        f"(kernel driver: {device.driver or 'none'}); load the amdgpu driver."
        for device in of_vendor(on_bus, AMD)
        if device.address not in listed
    ]
    if not cards and not notes:
        notes.append("AMD: none found (no AMD card on the PCI bus or under /sys/class/drm).")
    return tuple(cards), tuple(notes)


def device_folder(sys: Path, address: str) -> Path | None:
    """The sysfs folder of the AMD card at a PCI address."""
    return next((device for device in _drm_devices(sys) if _address(device) == address), None)


def _drm_devices(sys: Path) -> list[Path]:
    """/sys/class/drm/cardN/device of AMD's, in the order of N (card0-HDMI-A-1 and the like are connectors)."""
    root = sys / "class/drm"
    nodes = [node for node in root.iterdir() if re.fullmatch(r"card\d+", node.name)] if root.is_dir() else []
    nodes.sort(key=lambda node: int(node.name.removeprefix("card")))
    return [node / "device" for node in nodes if files.number(node / "device/vendor", 16) == AMD]


def _read(sys: Path, device: Path, address: str, total_bytes: int, index: int, amdgpu_ids: Path) -> Card:
    device_id = f"{files.number(device / 'device', 16) or 0:04x}"
    revision = files.number(device / "revision", 16)
    name = files.text(device / "product_name") or _name(amdgpu_ids, device_id, revision) or f"AMD GPU {device_id}"
    used_bytes = files.number(device / "mem_info_vram_used")
    render = next(iter(sorted(device.glob("drm/renderD*"))), None)
    spec = identify(name, total_bytes, device_id)
    known = spec.compute_capability if spec and spec.vendor == "amd" else None
    cap_uw = next((files.number(path) for path in sorted(device.glob("hwmon/hwmon*/power1_cap"))), None)
    return Card(
        id=address,
        name=name,
        vendor="amd",
        total_bytes=total_bytes,
        free_bytes=None if used_bytes is None else max(0, total_bytes - used_bytes),
        spec=spec.key if spec else None,
        index=index,
        gfx=_gfx(sys, render.name if render else None) or known,
        driver_version=files.text(sys / "module/amdgpu/version"),
        pci_address=address,
        pci_device_id=device_id,
        render_node=f"/dev/dri/{render.name}" if render else None,
        link=link(device),
        power_limit_watts=None if cap_uw is None else cap_uw / 1e6,
    )


def _address(device: Path) -> str:
    """The PCI address from the device's uevent (PCI_SLOT_NAME), else the name of the folder that the link leads to."""
    match = re.search(r"^PCI_SLOT_NAME=(\S+)$", files.text(device / "uevent") or "", re.MULTILINE)
    return match[1] if match else device.resolve().name


def _name(amdgpu_ids: Path, device_id: str, revision: int | None) -> str | None:
    """The product's name in libdrm's table ("67DF,\\tE7,\\tAMD Radeon RX 580 Series"): the id alone is shared by four products."""
    for line in (files.text(amdgpu_ids) or "").splitlines() if revision is not None else []:
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3 and parts[0].lower() == device_id and parts[1].lower() == f"{revision:02x}":
            return parts[2]
    return None


def _gfx(sys: Path, render: str | None) -> str | None:
    """The compute target from the kernel's topology: gfx_target_version 80003 is gfx803, 90010 gfx90a (minor and step are hex digits)."""
    for node in (sys / "class/kfd/kfd/topology/nodes").glob("*/properties") if render else []:
        facts = dict(line.split(None, 1) for line in (files.text(node) or "").splitlines() if " " in line)
        if facts.get("drm_render_minor") == (render or "").removeprefix("renderD") and facts.get("gfx_target_version", "0") != "0":
            version = int(facts["gfx_target_version"])
            return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
    return None


def link(device: Path) -> PcieLink | None:
    """The link into the slot. Vega 10 and later sit behind AMD's own bridges on the board; the outermost's link is the slot's."""
    outer = device.resolve()
    while files.number(outer.parent / "vendor", 16) == AMD:
        outer = outer.parent
    link = PcieLink(
        _generation(files.text(outer / "current_link_speed")),
        files.number(outer / "current_link_width"),
        _generation(files.text(outer / "max_link_speed")),
        files.number(outer / "max_link_width"),
    )
    return None if link == PcieLink(None, None) else link


def _generation(speed: str | None) -> int | None:
    """8.0 GT/s PCIe -> 3; None for "Unknown"."""
    return _GENERATION_BY_GT_S.get((speed or "").split(" ", 1)[0])
