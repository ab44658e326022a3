"""The machine around the cards: system, swap, disks, ports, clock, device files."""

from __future__ import annotations

import grp
import os
import pwd
import re
import time
from collections.abc import Callable
from pathlib import Path

from services.doctor.commands import Output, Run
from services.doctor.readings import Clock, DeviceFile, Disk, Listener, Machine
from services.hardware import files
from services.hardware.pci import PciDevice, of_vendor

TIMEDATECTL = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
HIVE_FOLDER = "hive/bin"
_LISTENING = "0A"  # include/net/tcp_states.h, TCP_LISTEN


def read_machine(root: Path, user: str, is_root: bool, groups: tuple[str, ...]) -> Machine:
    release = dict(line.split("=", 1) for line in (files.text(root / "etc/os-release") or "").splitlines() if "=" in line)
    hive = (root / HIVE_FOLDER).is_dir()
    name = release.get("PRETTY_NAME", "").strip('"') or "unknown Linux"
    return Machine(
        os_id="hiveos" if hive else release.get("ID", "").strip('"') or "unknown",
        os_name=f"HiveOS on {name}" if hive else name,
        kernel=files.text(root / "proc/sys/kernel/osrelease") or "unknown",
        is_root=is_root,
        user=user,
        groups=groups,
    )


def user_name() -> str:
    """Who asks: the name, or the number where it has none (in a container)."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def read_swap_bytes(proc: Path) -> int | None:
    match = re.search(r"^SwapTotal:\s+(\d+) kB", files.text(proc / "meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def disk_of(purpose: str, path: Path) -> Disk:
    """The file system of a folder; one that isn't there yet is looked up through its nearest parent that is."""
    existing = next((one for one in (path, *path.parents) if _is_there(one)), Path("/"))
    usage = os.statvfs(existing)
    return Disk(purpose, str(path), existing.stat().st_dev, usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:  # absent, or below a folder that this user may not enter
        return False
    return True


def read_listeners(proc: Path) -> tuple[Listener, ...]:
    """TCP ports that something listens on, IPv4 and IPv6. The program is told for processes of this user (root: for all)."""
    found: dict[tuple[int, str], str] = {}
    for name in ("net/tcp", "net/tcp6"):
        for line in (files.text(proc / name) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTENING:
                address, _, port = fields[1].rpartition(":")
                found[int(port, 16), _address(address)] = fields[9]
    owners = _owners(proc, set(found.values()))
    return tuple(Listener(port, address, owners.get(inode)) for (port, address), inode in sorted(found.items()))


def _address(digits: str) -> str:
    """The kernel writes addresses as little-endian 32-bit words: 0100007F is 127.0.0.1. Of IPv6 only "any" and "loopback" matter here."""
    if len(digits) == 8:
        return ".".join(str(byte) for byte in reversed(bytes.fromhex(digits)))
    if not digits.strip("0"):
        return "::"
    return "::1" if digits == "0" * 24 + "01000000" else "IPv6"


def _owners(proc: Path, inodes: set[str]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for process in proc.iterdir() if inodes else ():
        if not process.name.isdigit():
            continue
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        for link in links:
            inode = link.removeprefix("socket:[").removesuffix("]")
            if inode in inodes:
                owners[inode] = files.text(process / "comm") or process.name
    return owners


def read_clock(run: Run, now_s: Callable[[], float]) -> Clock:
    """The year by this machine's clock, and whether systemd says that NTP keeps it (None: not told)."""
    output = run(TIMEDATECTL)
    said = output.out.strip() if isinstance(output, Output) and output.code == 0 else ""
    return Clock(time.gmtime(now_s()).tm_year, {"yes": True, "no": False}.get(said))


def group_of(path: Path) -> tuple[str, int]:
    """Name and number of the group that owns a file. Raises OSError when it isn't there."""
    gid = path.stat().st_gid
    return group_name(gid), gid


def read_device_files(
    root: Path,
    bus: tuple[PciDevice, ...],
    vendor: int,
    may_open: Callable[[Path], bool],
    group_of: Callable[[Path], tuple[str, int]] = group_of,
) -> tuple[DeviceFile, ...]:
    """/dev/kfd and the render node of each card of `vendor` on the bus; nothing where there is none."""
    devices = of_vendor(bus, vendor)
    if not devices:
        return ()
    nodes = [node.name for device in devices for node in sorted((root / "sys/bus/pci/devices" / device.address / "drm").glob("renderD*"))]
    found = []
    for path in ("dev/kfd", *(f"dev/dri/{node}" for node in nodes)):
        try:
            group, gid = group_of(root / path)
        except OSError:
            found.append(DeviceFile(f"/{path}", False, False))
        else:
            found.append(DeviceFile(f"/{path}", True, may_open(root / path), group, gid))
    return tuple(found)
