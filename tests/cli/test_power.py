"""`rigserve power`: caps read and set through a stand-in of NVML."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from click.testing import CliRunner, Result

from services.cli.main import main


class Nvml:
    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        self.caps, self.refuses = {"GPU-aa11": 130_000, "GPU-aa22": 180_000}, 0

    def nvmlInit(self) -> None:
        if self.refuses == 9:
            raise pynvml.NVMLError(9)

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index == 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return list(self.caps)[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return handle.encode()

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "P104-100"

    def nvmlDeviceGetPowerManagementLimit(self, handle: str) -> int:
        return self.caps[handle]

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: str) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: str) -> list[int]:
        return [90_000, 180_000]

    def nvmlDeviceSetPowerManagementLimit(self, handle: str, milliwatts: int) -> None:
        if self.refuses:
            raise pynvml.NVMLError(self.refuses)
        self.caps[handle] = milliwatts


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    made = Nvml()
    monkeypatch.setattr("services.hardware.nvidia.load", lambda: made)
    return made


def run(*argv: str) -> Result:
    return CliRunner().invoke(main, ["power", *argv])


def test_the_list(nvml: Nvml) -> None:
    lines = run("--list").output.splitlines()
    assert lines[1].split("   ")[:4] == ["P104-100", "GPU-aa11", "130 W", "unknown"]
    assert lines[1].endswith("90 W - 180 W")
    assert len(lines) == 4, "the lost card is left out"


def test_a_cap_is_set(nvml: Nvml) -> None:
    assert run("--set", "110.5", "--card", "GPU-aa1").exit_code == 0
    assert nvml.caps == {"GPU-aa11": 110_500, "GPU-aa22": 180_000}


@pytest.mark.parametrize(("argv", "refuses", "code", "words"), [
    (("--set", "60", "--card", "GPU-aa1"), 0, 1, "takes a cap from 90 to 180 W, not 60 W"),
    (("--set", "100", "--card", "GPU-aa1"), 4, 1, "run it with sudo"), (("--set", "100", "--card", "GPU-aa"), 0, 2, "more than one card"),
    (("--set", "100", "--card", "GPU-zz"), 0, 2, "there are: GPU-aa11, GPU-aa22"), (("--set", "100"), 0, 2, "--card UUID"),
    (("--list",), 9, 1, "the NVIDIA driver is not loaded"),
], ids=["range", "root", "both", "none", "which", "driver"])  # fmt: skip
def test_refusals(nvml: Nvml, argv: tuple[Any, ...], refuses: int, code: int, words: str) -> None:
    nvml.refuses = refuses
    answer = run(*argv)
    assert answer.exit_code == code
    assert words in answer.output
    assert nvml.caps == {"GPU-aa11": 130_000, "GPU-aa22": 180_000}
