"""What was read off a machine: plain data, so that a rig can be played back from a capture.

A reading that could not be made is an `Unread` with the reason; a figure that a driver doesn't tell is None. Neither ever counts as good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.hardware.pci import PciDevice
from services.sizing.types import Card, Host


@dataclass(frozen=True, slots=True)
class Unread:
    """Why there is no reading: a clause for people ("dmesg: Operation not permitted")."""

    why: str


@dataclass(frozen=True, slots=True)
class Cards:
    """`notes` are hardware.detect's sentences on cards and drivers that don't answer."""

    cards: tuple[Card, ...]
    health: tuple[CardHealth, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CardHealth:
    """What a driver tells of one card's state. None: not told. `replays` are PCIe transfers sent again since the driver was loaded."""

    card_id: str
    persistence: bool | None = None
    power_default_watts: float | None = None
    power_enforced_watts: float | None = None
    ecc_on: bool | None = None
    bad_pages: int | None = None
    bad_pages_pending: bool | None = None
    replays: int | None = None
    busy_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's kernel driver: its version wherever it was found, and whether its open flavour is loaded (which drives Turing and later)."""

    version: str | None
    loaded: bool
    open_modules: bool | None = None


@dataclass(frozen=True, slots=True)
class KernelLog:
    """What the kernel said since boot. `source` is the command that gave it; `from_s` the first line's seconds after boot, where known.
    `ignored_gpus` are the NVIDIA driver's own sentences on cards that it won't drive, `ignored_by` the version that said so."""

    source: str
    from_s: float | None
    xids: tuple[Xid, ...] = ()
    bus_errors: tuple[tuple[str, int], ...] = ()
    oom_kills: tuple[str, ...] = ()
    ignored_gpus: tuple[str, ...] = ()
    ignored_by: str | None = None
    amdgpu_timeouts: int = 0


@dataclass(frozen=True, slots=True)
class Xid:
    """One kind of driver error on one card: `address` like 0000:01:00, `count` how often, `text` the last one's words."""

    address: str
    code: int
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Docker:
    """`engine` is the server's version, `compose` the plugin's (None: not there). `limits_missing`: limits that the kernel can't keep."""

    engine: str
    compose: str | None
    runtimes: tuple[str, ...]
    data_root: str
    cgroup_version: str | None
    limits_missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoDocker:
    """Docker can't be used. kind: absent (no command), refused (no permission), silent (no engine answers), or the time ran out."""

    kind: Literal["absent", "refused", "silent"]
    said: str


@dataclass(frozen=True, slots=True)
class CdiSpec:
    """A file that tells container engines how to hand out NVIDIA cards. `driver_versions` are those of the libraries it names."""

    path: str
    driver_versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Toolkit:
    """The NVIDIA Container Toolkit. version None: not installed."""

    version: str | None
    hook_on_path: bool
    cdi_specs: tuple[CdiSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A node under /dev. `may_open` is for the user who runs the doctor. `group` is the owning group's name, else its number."""

    path: str
    exists: bool
    may_open: bool
    group: str | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that something of ours will be written to. `device` is the kernel's number of it: two purposes may share one."""

    purpose: str
    path: str
    device: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port in use. `process` is its program, where this user may know."""

    port: int
    address: str
    process: str | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    year: int
    synchronized: bool | None


@dataclass(frozen=True, slots=True)
class Machine:
    """The operating system and who is asking. `os_id` is os-release's ID (debian, ubuntu), or hiveos."""

    os_id: str
    os_name: str
    kernel: str
    is_root: bool
    user: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything that the rules look at."""

    machine: Machine
    host: Host
    swap_bytes: int | None
    bus: tuple[PciDevice, ...]
    cards: Cards | Unread
    driver: Driver
    log: KernelLog | Unread
    docker: Docker | NoDocker
    toolkit: Toolkit | Unread
    device_files: tuple[DeviceFile, ...]
    disks: tuple[Disk, ...] | Unread
    listeners: tuple[Listener, ...] | Unread
    clock: Clock
