"""The PCI bus as the kernel sees it, driver or not: the second witness when a driver says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.hardware import files

NVIDIA = 0x10DE
AMD = 0x1002
_DISPLAY_CLASS = 0x03  # PCI base class "display controller"; mining boards without outputs are "3D controller", 0x0302


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One display-class device. `address` like 0000:01:00.0, `driver` the kernel module bound to it (None: none)."""

    address: str
    vendor: int
    device_id: str
    driver: str | None


def display_devices(sys: Path) -> tuple[PciDevice, ...]:
    """Every display-class device on the bus, by address; empty where there is no PCI bus to read."""
    root = sys / "bus/pci/devices"
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        vendor, device, kind = (files.number(folder / name, 16) for name in ("vendor", "device", "class"))
        if vendor is None or device is None or kind is None or kind >> 16 != _DISPLAY_CLASS:
            continue
        driver = folder / "driver"
        found.append(PciDevice(folder.name, vendor, f"{device:04x}", driver.resolve().name if driver.exists() else None))
    return tuple(found)


def of_vendor(devices: tuple[PciDevice, ...], vendor: int) -> tuple[PciDevice, ...]:
    return tuple(device for device in devices if device.vendor == vendor)
