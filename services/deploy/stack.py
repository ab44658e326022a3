"""What has to run where, said without any engine's words: a Stack of Services. A writer (`compose.py`) turns it into an engine's file.

Times are seconds, sizes bytes. A text that holds `${NAME}` or `${NAME:-default}` is filled by the engine from the environment file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["gateway", "worker", "fetch", "monitoring", "loadtest"]


@dataclass(frozen=True, slots=True)
class Build:
    """How an image is made from the project's own source."""

    dockerfile: str
    arguments: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """`ours`: made from this project, never looked for in a registry. `build` is given where this service is the one that builds it."""

    name: str
    ours: bool
    build: Build | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """The one card of a container: an NVIDIA card by UUID, or device nodes (AMD)."""

    nvidia_id: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A named volume, or a folder or file beside the stack's file (`source` starts with "./")."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """Memory as a folder. `exec`: programs in it may be run (an engine compiles there)."""

    target: str
    size_bytes: int
    mode: str = "1777"
    exec: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the host that leads to a port of the service."""

    address: str
    host: str
    target: int


@dataclass(frozen=True, slots=True)
class Health:
    """`start_s`: failures before that are not counted, so it is the start-up timeout. Asked every `start_interval_s` until then."""

    command: tuple[str, ...]
    start_s: int
    interval_s: int = 30
    start_interval_s: int = 3
    timeout_s: int = 10
    retries: int = 3


@dataclass(frozen=True, slots=True)
class After:
    """Start after `service` is so far. Not `required`: when it never gets there, start all the same."""

    service: str
    condition: Literal["healthy", "done", "started"]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Flag:
    """One argument of an engine's command line, with its value, and why it is there."""

    words: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Service:
    """One container. `notes` are for people; `flags` is the engine's command line as the worker in it builds it (also for people)."""

    name: str
    role: Role
    image: Image
    command: tuple[str, ...]
    networks: tuple[str, ...]
    notes: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    profile: str | None = None
    user: str | None = None
    entrypoint: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    gpu: Gpu = field(default_factory=Gpu)
    groups: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    configs: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    health: Health | None = None
    after: tuple[After, ...] = ()
    memory_bytes: int | None = None
    memory_why: str = ""
    shm_bytes: int | None = None
    pids: int = 512
    stop_grace_s: int = 10
    one_shot: bool = False
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """`internal`: no way out of it, and none into it from the host's network cards."""

    name: str
    internal: bool
    why: str


@dataclass(frozen=True, slots=True)
class Volume:
    """Files that outlive containers; `memory_bytes`: a small folder of memory that containers share instead."""

    name: str
    why: str
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything of one rig. `configs` and `secrets` are (name, file beside the stack's file)."""

    name: str
    notes: tuple[str, ...]
    services: tuple[Service, ...]
    networks: tuple[Network, ...]
    volumes: tuple[Volume, ...]
    configs: tuple[tuple[str, str], ...]
    secrets: tuple[tuple[str, str], ...]

    def of(self, role: Role) -> tuple[Service, ...]:
        """The services of one role, in the order in which they start."""
        return tuple(service for service in self.services if service.role == role)


class StackError(Exception):
    """The plan can't become a stack. The message says what to do."""
