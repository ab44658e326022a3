"""A network of its own for this thread and what it starts: a docker engine there leaves the first one's firewall rules alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000


def _enter(descriptor: int) -> None:
    """setns(2), which Python has from 3.12 on; for the calling thread, inherited by threads and processes that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def network_namespace() -> Iterator[None]:
    """Only a loopback interface, no way out. Takes root."""
    name = f"rst-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        _enter(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(there)
        os.close(home)
        subprocess.run(["ip", "netns", "del", name], check=True)
