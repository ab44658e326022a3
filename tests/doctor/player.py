"""Plays a whole rig to the doctor: files, links, NVML and the output of commands, from one JSON of captures/."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from services.doctor.case import Case
from services.doctor.commands import NOT_THERE, Output
from services.doctor.diagnose import diagnose
from services.doctor.finding import Finding, Report, Severity
from services.doctor.read import Sources, read
from services.doctor.readings import Disk, Readings
from services.sizing.types import Plan
from tests.hardware.player import NvmlPlayer

CAPTURES = Path(__file__).parent / "captures"
RIGS = tuple(sorted(path.stem for path in CAPTURES.glob("*.json")))
GIB = 2**30
SECONDS_A_YEAR = 365.25 * 24 * 3600


class RigNvml(NvmlPlayer):
    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.open = 0

    def nvmlDeviceGetRetiredPages(self, device: dict[str, Any], cause: int) -> Any:
        return self.answer(device, f"nvmlDeviceGetRetiredPages {cause}")

    def nvmlDeviceGetUtilizationRates(self, device: dict[str, Any]) -> Any:
        return SimpleNamespace(**self.answer(device, "nvmlDeviceGetUtilizationRates"))


def load(name: str) -> dict[str, Any]:
    rig: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text(encoding="utf8"))
    return rig


def sources(rig: dict[str, Any], root: Path) -> Sources:
    """Everything from the capture; nothing of the machine that the test runs on."""
    for path, text in rig["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path, target in rig["links"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target if target.startswith("socket:") else root / target)
    commands = {_argv(line): said for line, said in rig["commands"].items()}
    closed = {root / path for path in rig.get("closed", ())}
    nvml = RigNvml(rig["nvml"])

    def run(argv: tuple[str, ...]) -> Output:
        said = commands.get(argv, {"code": NOT_THERE})
        return Output(said["code"], said.get("out", ""), said.get("err", ""))

    def group_of(path: Path) -> tuple[str, int]:
        path.stat()  # one that isn't there raises, as on the real machine
        return tuple(rig.get("device_group", ["render", 993]))

    return Sources(
        root=root,
        run=run,
        nvml=nvml,
        amdgpu_ids=Path("/nonexistent"),
        which=lambda name: f"/usr/bin/{name}" if name in rig["on_path"] else None,
        now_s=lambda: (rig.get("year", 2026) - 1970 + 0.5) * SECONDS_A_YEAR,
        may_open=lambda path: path not in closed,
        group_of=group_of,
        disk_of=lambda purpose, path: Disk(purpose, str(path), 1, rig["free_gib"] * GIB, 256 * GIB),
        user=rig.get("user", "root"),
        is_root="user" not in rig,
        groups=tuple(rig.get("groups", ["root"])),
    )


def _argv(line: str) -> tuple[str, ...]:
    """The capture's command line split at blanks, but for the template that docker takes as one argument."""
    head, template, _ = line.partition("{{json .}}")
    return (*head.split(), template) if template else tuple(head.split())


def readings(name: str, root: Path) -> Readings:
    return read(Path("/home/miner/.cache/rigserve"), sources(load(name), root))


def report(name: str, root: Path, plan: Plan | None = None) -> Report:
    return diagnose(Case(readings(name, root), plan, 8000, {"llamacpp-cuda12": None, "diffusion-cu126": 2 * GIB}))


def of(found: Report, rule: str, subject: str | None = None) -> list[Finding]:
    """The findings of one rule, all of them or one card's."""
    return [finding for finding in found.findings if finding.id == rule and subject in (None, finding.subject)]


def the(found: Report, rule: str, subject: str | None = None) -> Finding:
    (finding,) = of(found, rule, subject)
    return finding


def severities(found: Report, rule: str) -> list[Severity]:
    return [finding.severity for finding in of(found, rule)]
