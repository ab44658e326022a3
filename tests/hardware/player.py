"""Plays captured driver output: an NVML module fed from JSON, and a /sys or /proc tree built from JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

CAPTURES = Path(__file__).parent / "captures"


def capture(name: str) -> dict[str, Any]:
    captured: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text(encoding="utf8"))
    return captured


class NvmlPlayer:
    """Answers the calls that the capture holds. An answer {"error": N} is that NVML return code; a missing one is NOT_SUPPORTED."""

    NVMLError = pynvml.NVMLError

    def __init__(self, name: str) -> None:
        self.data = capture(name)
        self.open = 0

    def nvmlInit(self) -> None:
        self.answer(self.data, "nvmlInit", None)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self.answer(self.data, "nvmlSystemGetDriverVersion")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.data["devices"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        device: dict[str, Any] = self.data["devices"][index]
        self.answer(device, "nvmlDeviceGetHandleByIndex", None)
        return device

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> dict[str, Any]:
        for device in self.data["devices"]:
            if device.get("nvmlDeviceGetUUID") == uuid:
                return device  # type: ignore[no-any-return]
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetMemoryInfo(self, device: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**self.answer(device, "nvmlDeviceGetMemoryInfo"))

    def nvmlDeviceGetPciInfo(self, device: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**self.answer(device, "nvmlDeviceGetPciInfo"))

    def nvmlDeviceGetComputeRunningProcesses(self, device: dict[str, Any]) -> list[SimpleNamespace]:
        return [SimpleNamespace(**one) for one in self.answer(device, "nvmlDeviceGetComputeRunningProcesses")]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)
        return lambda device: self.answer(device, name)

    @staticmethod
    def answer(source: dict[str, Any], name: str, missing: Any = {"error": pynvml.NVML_ERROR_NOT_SUPPORTED}) -> Any:  # noqa: B006
        value = source.get(name, missing)
        if isinstance(value, dict) and "error" in value:
            raise pynvml.NVMLError(value["error"])
        return value.encode() if isinstance(value, str) and source.get("bytes") else value


def build_tree(root: Path, name: str) -> Path:
    """Writes the capture's files and links below `root` (links are relative to it)."""
    data = capture(name)
    for path, text in data["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path, target in data.get("links", {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(root / target)
    return root
