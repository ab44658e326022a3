"""One look at a machine: every reader, each in its own thread with a time of its own, nothing of it as root."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.doctor.commands import Look, Run, run
from services.doctor.read_cards import read_cards, read_driver
from services.doctor.read_docker import read_docker, read_toolkit
from services.doctor.read_host import (
    disk_of,
    group_name,
    group_of,
    read_clock,
    read_device_files,
    read_listeners,
    read_machine,
    read_swap_bytes,
    user_name,
)
from services.doctor.read_kernel import read_log
from services.doctor.readings import Clock, Disk, Docker, Driver, NoDocker, Readings, Unread
from services.hardware.amd import AMDGPU_IDS
from services.hardware.host import read_host
from services.hardware.pci import AMD, display_devices

CARDS_S = 20.0  # NVML wakes up every card of a rig without persistence: a second or more each
READER_S = 20.0  # two commands of 8 s, and some


def _may_open(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where readings come from; all of it can be replaced by captures. `root` is the folder that stands for /."""

    root: Path = Path("/")
    run: Run = run
    nvml: Any = None
    amdgpu_ids: Path = AMDGPU_IDS
    which: Callable[[str], str | None] = shutil.which
    now_s: Callable[[], float] = time.time
    may_open: Callable[[Path], bool] = _may_open
    group_of: Callable[[Path], tuple[str, int]] = group_of
    disk_of: Callable[[str, Path], Disk] = disk_of
    user: str = field(default_factory=user_name)
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    groups: tuple[str, ...] = field(default_factory=lambda: tuple(group_name(gid) for gid in os.getgroups()))


def read(weights: Path, sources: Sources | None = None) -> Readings:
    """Look at this machine. `weights` is the folder that models are kept in. Takes as long as its slowest reader, at most half a minute."""
    at = sources or Sources()
    proc, sys = at.root / "proc", at.root / "sys"
    bus = display_devices(sys)
    cards = Look("the cards' driver (NVML)", lambda: read_cards(sys, bus, at.nvml, at.amdgpu_ids))
    driver = Look("the NVIDIA kernel driver", lambda: read_driver(proc, sys, at.run))
    log = Look("the kernel log", lambda: read_log(at.run))
    toolkit = Look("the NVIDIA container toolkit", lambda: read_toolkit(at.run, at.root, at.which))
    docker = Look("docker", lambda: read_docker(at.run))
    clock = Look("the clock", lambda: read_clock(at.run, at.now_s))
    listeners = Look("the list of ports", lambda: read_listeners(proc))
    engine = _docker(docker.result(READER_S))
    places = {"container images": Path(engine.data_root)} if isinstance(engine, Docker) else {}
    places["model weights"] = weights
    disks = Look("the file systems", lambda: tuple(at.disk_of(purpose, path) for purpose, path in places.items()))
    return Readings(
        machine=read_machine(at.root, at.user, at.is_root, at.groups),
        host=read_host(proc, sys),
        swap_bytes=read_swap_bytes(proc),
        bus=bus,
        cards=cards.result(CARDS_S),
        driver=_driver(driver.result(READER_S)),
        log=log.result(READER_S),
        docker=engine,
        toolkit=toolkit.result(READER_S),
        device_files=read_device_files(at.root, bus, AMD, at.may_open, at.group_of),
        disks=disks.result(READER_S),
        listeners=listeners.result(READER_S),
        clock=_clock(clock.result(READER_S), at.now_s),
    )


def _docker(found: Docker | NoDocker | Unread) -> Docker | NoDocker:
    return NoDocker("silent", found.why) if isinstance(found, Unread) else found


def _clock(found: Clock | Unread, now_s: Callable[[], float]) -> Clock:
    return Clock(time.gmtime(now_s()).tm_year, None) if isinstance(found, Unread) else found


def _driver(found: Driver | Unread) -> Driver:
    return Driver(None, False) if isinstance(found, Unread) else found
