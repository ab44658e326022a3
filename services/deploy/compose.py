"""Stack -> the text of a compose.yaml (Docker Compose v2), with the reasons as comments."""

from __future__ import annotations

from typing import Any

from services.deploy.stack import Flag, Health, Network, Service, Stack, Tmpfs, Volume
from services.deploy.yamltext import Noted, Raw, Spaced, document
from services.sizing.units import MIB

_CONDITIONS = {"healthy": "service_healthy", "done": "service_completed_successfully", "started": "service_started"}
_FLAG_COLUMN = 38
# What every container has in common. Each line is a thing that a program that was broken into can't do.
_CONTAINED: dict[str, Any] = {
    # Not unless-stopped: a daemon that was killed takes its containers for stopped by hand when it starts again (seen on engine 26.1.5).
    "restart": "always",
    "init": True,
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
}


def compose_text(stack: Stack) -> str:
    """The file. No port but the gateway's (and, in their profiles, those of monitoring and load test), no docker socket, no secret."""
    head = (
        "Made by `rigserve compose` from plan.yaml: change the plan and make it again, not this file.", *stack.notes,
        "Start: rigserve up (checks first), or docker compose up -d. One card at a time: rigserve upgrade.",
    )
    return document({
        "name": Noted(stack.name, head),
        "x-contained": Noted(("contained", _CONTAINED), ("Every container: nothing to write to but what is listed, no capabilities.",)),
        "services": Spaced({service.name: _service(service) for service in stack.services}),
        "networks": {network.name: Noted(_network(network), (network.why,)) for network in stack.networks},
        "volumes": {volume.name: Noted(_volume(volume), (volume.why,)) for volume in stack.volumes},
        "configs": {name: {"file": file} for name, file in stack.configs},
        "secrets": Noted({name: {"file": file} for name, file in stack.secrets},
                         ("Files that `rigserve compose` fills with random words; a worker and the gateway share one.",)),
    })


def _service(service: Service) -> Noted:
    """In the order in which one reads it: who, what, where, with what, how much, when."""
    body: dict[str, Any] = {"<<": Raw("*contained"), "image": service.image.name}
    if service.image.ours:
        body["pull_policy"] = "never"
    if service.image.build is not None:
        body |= _build(service)
    if service.profile:
        body["profiles"] = [service.profile]
    if service.one_shot:
        body["restart"] = Raw('"no"')
    if service.command:
        body["command"] = list(service.command)
    if service.entrypoint:
        body["entrypoint"] = list(service.entrypoint)
    body |= _identity(service) | _places(service) | _limits(service) | _times(service)
    if service.labels:
        body["labels"] = {key: value.replace("$", "$$") for key, value in service.labels}  # compose fills in what follows a single $
    return Noted(body, (*service.notes, *_flag_lines(service.flags)))


def _build(service: Service) -> dict[str, Any]:
    assert service.image.build is not None
    build: dict[str, Any] = {"context": "${RIGSERVE_SOURCE:-.}", "dockerfile": service.image.build.dockerfile}
    if service.image.build.arguments:
        build["args"] = dict(service.image.build.arguments)
    return {"build": build}


def _identity(service: Service) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if service.user:
        body["user"] = service.user
    if service.groups:
        body["group_add"] = list(service.groups)
    if service.environment:
        body["environment"] = dict(service.environment)
    if service.gpu.nodes:
        body["devices"] = [f"{node}:{node}" for node in service.gpu.nodes]
    if service.gpu.nvidia_id:
        reserved = {"driver": "nvidia", "device_ids": [service.gpu.nvidia_id], "capabilities": ["gpu", "compute", "utility"]}
        body["deploy"] = {"resources": {"reservations": {"devices": [reserved]}}}
    return body


def _places(service: Service) -> dict[str, Any]:
    body: dict[str, Any] = {"networks": list(service.networks)}
    if service.ports:
        body["ports"] = [f"{port.address}:{port.host}:{port.target}" for port in service.ports]
    if service.secrets:
        body["secrets"] = list(service.secrets)
    if service.configs:
        body["configs"] = [{"source": name, "target": target} for name, target in service.configs]
    if service.mounts:
        body["volumes"] = [f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}" for mount in service.mounts]
    if service.tmpfs:
        body["tmpfs"] = [_tmpfs(one) for one in service.tmpfs]
    return body


def _limits(service: Service) -> dict[str, Any]:
    body: dict[str, Any] = {"pids_limit": service.pids}
    if service.memory_bytes is not None:
        body["mem_limit"] = Noted(f"{service.memory_bytes // MIB}m", (service.memory_why,))
    if service.shm_bytes is not None:
        body["shm_size"] = f"{service.shm_bytes // MIB}m"
    return body


def _times(service: Service) -> dict[str, Any]:
    body: dict[str, Any] = {"stop_grace_period": f"{service.stop_grace_s}s"}
    if service.one_shot:
        body["healthcheck"] = {"disable": True}  # the image's own asks a worker
    if service.health:
        body["healthcheck"] = _health(service.health)
    if service.after:
        body["depends_on"] = {
            after.service: {"condition": _CONDITIONS[after.condition], **({} if after.required else {"required": False})}
            for after in service.after
        }
    return body


def _health(health: Health) -> dict[str, Any]:
    return {
        "test": ["CMD", *health.command], "start_period": f"{health.start_s}s", "start_interval": f"{health.start_interval_s}s",
        "interval": f"{health.interval_s}s", "timeout": f"{health.timeout_s}s", "retries": health.retries,
    }


def _tmpfs(one: Tmpfs) -> str:
    return f"{one.target}:size={one.size_bytes // MIB}m,mode={one.mode}{',exec' if one.exec else ''}"


def _network(network: Network) -> dict[str, Any]:
    """An internal network still lets the host in: its bridge has an address there. Without that address no program of the host has a
    way to the containers (tried on engine 26: the host's own curl reached a worker before, and does not any more)."""
    return {"internal": True, "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"}} if network.internal else {}


def _volume(volume: Volume) -> dict[str, Any]:
    if volume.memory_bytes is None:
        return {}
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={volume.memory_bytes},mode=1777"}
    return {"driver_opts": options}


def _flag_lines(flags: tuple[Flag, ...]) -> tuple[str, ...]:
    """The engine's command line, a flag to a line, each with its reason behind it (or below it, when it is long)."""
    if not flags:
        return ()
    lines = ["The worker starts the engine with:"]
    for flag in flags:
        words = " ".join(flag.words)
        lines.append(f"   {words:<{_FLAG_COLUMN}} {flag.why}".rstrip() if len(words) <= _FLAG_COLUMN else f"   {words}")
        if len(words) > _FLAG_COLUMN and flag.why:
            lines.append(f"   {'':<{_FLAG_COLUMN}} {flag.why}")
    return tuple(lines)
