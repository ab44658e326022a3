"""Docker, compose and the NVIDIA Container Toolkit, as their own commands tell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.doctor.commands import NOT_THERE, Output, Run
from services.doctor.readings import CdiSpec, Docker, NoDocker, Toolkit, Unread
from services.hardware import files

INFO = ("docker", "info", "--format", "{{json .}}")
COMPOSE = ("docker", "compose", "version", "--short")
TOOLKIT = ("nvidia-ctk", "--version")
TOOLKIT_LIBRARY = ("nvidia-container-cli", "--version")
HOOKS = ("nvidia-container-runtime-hook", "nvidia-container-toolkit")
CDI_FOLDERS = ("etc/cdi", "var/run/cdi", "run/cdi")
# What docker info calls the limits that every one of our containers sets.
_LIMITS = {"MemoryLimit": "memory", "SwapLimit": "swap", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
_REFUSED = re.compile(r"permission denied|dial unix .*: connect: permission", re.IGNORECASE)
_VERSION = re.compile(r"version:? +v?(\d+\.\d+\.\d+\S*)", re.IGNORECASE)


def read_docker(run: Run) -> Docker | NoDocker:
    """What the engine says of itself, or why it says nothing."""
    output = run(INFO)
    if isinstance(output, Unread):
        return NoDocker("silent", output.why)
    if output.code == NOT_THERE:
        return NoDocker("absent", "there is no docker command")
    info = _parsed(output.out)
    said = "; ".join(str(line) for line in info.get("ServerErrors") or ()) or output.reason
    if not info.get("ServerVersion"):
        return NoDocker("refused" if _REFUSED.search(said + output.err) else "silent", said[:300])
    compose = run(COMPOSE)
    return Docker(
        engine=str(info["ServerVersion"]),
        compose=compose.out.strip().lstrip("v") if isinstance(compose, Output) and compose.code == 0 else None,
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        data_root=str(info.get("DockerRootDir") or "/var/lib/docker"),
        cgroup_version=str(info["CgroupVersion"]) if info.get("CgroupVersion") else None,
        limits_missing=tuple(name for key, name in _LIMITS.items() if info.get(key) is False),
    )


def _parsed(text: str) -> dict[str, Any]:
    try:
        info = json.loads(text)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def read_toolkit(run: Run, root: Path, which: Callable[[str], str | None]) -> Toolkit | Unread:
    """Version, hook and CDI files. Not installed is a reading too (version None)."""
    version = None
    for argv in (TOOLKIT, TOOLKIT_LIBRARY):
        output = run(argv)
        if isinstance(output, Unread):
            return output
        if output.code != NOT_THERE:
            match = _VERSION.search(output.out + output.err)
            if match is None:
                return Unread(f"{argv[0]} --version: {output.reason}")
            version = match[1]
            break
    specs = {path.resolve(): path for folder in CDI_FOLDERS for path in _spec_files(root / folder)}
    found = (_spec(path, root) for path in specs.values())
    return Toolkit(version, any(which(name) for name in HOOKS), tuple(spec for spec in found if spec))


def _spec_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml", ".json"))
    except OSError:
        return []


def _spec(path: Path, root: Path) -> CdiSpec | None:
    """The file, when it is about NVIDIA's cards. Its text is searched, not parsed: YAML and JSON write these names alike."""
    text = files.text(path) or ""
    if "nvidia.com/gpu" not in text:
        return None
    versions = sorted(set(re.findall(r"lib(?:cuda|nvidia-ml)\.so\.(\d{3}\.\d[\d.]*\d)", text)))
    return CdiSpec("/" + str(path.relative_to(root)), tuple(versions))
