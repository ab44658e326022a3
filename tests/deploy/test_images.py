"""The image table against everything that must agree with it: environments, sizing's choices, Dockerfiles, lock files, the page."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from services.deploy.images import GATEWAY, Devices, Image, ImageError, image_of, load_images
from services.provision.environment_table import ENVIRONMENTS, Gpu
from services.sizing import engines
from tests.deploy.images_page import PAGE, between, image_rows, replaced

ROOT = Path(__file__).parents[2]
IMAGES = load_images()
VERSION = version("rigserve")
PINNED = re.compile(r"^[a-z0-9./-]+:[a-z0-9][a-z0-9.-]*\d[a-z0-9.-]*(@sha256:[0-9a-f]{64})?$")
WORKERS = {name: image for name, image in IMAGES.items() if name != GATEWAY}
# What each image's commands start from; the engine has an environment of its own.
STARTS = {
    "gateway": ("services.gateway.__main__", "services.cli.main", "services.cli.gateway", "services.cli.health", "services.cli.keys"),
    "worker": ("services.worker.__main__", "services.cli.main", "services.cli.worker", "services.cli.health", "services.cli.fetch"),
}
IN_THE_ENGINE = {
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "services" / "diffusion" / "model").glob("*.py")),
    "services/worker/engines/llamacpp_server.py", "services/provision/convert_gguf.py", "services/hardware/probe_cuda.py",
}  # fmt: skip
NEVER_REACHED = {"highspy"}  # imported inside the function that plans a rig of GPUs; a container obeys a plan
PACKAGE_OF = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py"}
ADDED_BY_EXTRAS = {"uvicorn": {"httptools", "uvloop"}, "huggingface-hub": set()}


def test_every_environment_has_one_image_and_its_own_tag() -> None:
    assert set(WORKERS) == set(ENVIRONMENTS)
    references = [image.reference(VERSION) for image in IMAGES.values()]
    assert len(set(references)) == len(references)
    assert image_of(IMAGES, "llamacpp-cuda12").reference("1.2.3") == "rigserve/llm-llamacpp:1.2.3-cuda12"
    assert image_of(IMAGES, GATEWAY).reference("1.2.3") == "rigserve/gateway:1.2.3"


def test_an_environment_without_an_image_is_a_sentence() -> None:
    with pytest.raises(ImageError, match=r"no container image with the engine environment 'vllm-rocm'; there are: .*vllm-cpu"):
        image_of(IMAGES, "vllm-rocm")


@pytest.mark.parametrize("text", ["", "- a list", "gateway: 7", "gateway: {repository: x}", "a: [", "gateway: {colour: red}"])
def test_a_table_that_cannot_be_read_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "images.yaml").write_text(text)
    with pytest.raises(ImageError, match=r"image table .*images\.yaml can't be read"):
        load_images(tmp_path / "images.yaml")


@pytest.mark.parametrize("name", WORKERS)
def test_devices_follow_the_environment(name: str) -> None:
    wanted = {None: {Devices.NONE}, Gpu.NVIDIA: {Devices.NVIDIA}, Gpu.ANY: {Devices.RENDER}, Gpu.AMD: {Devices.KFD}}
    image = WORKERS[name]
    assert image.devices in wanted[ENVIRONMENTS[name].gpu]
    assert (image.driver_floor is not None) == (image.devices is Devices.NVIDIA) == (image.compute_capability_from is not None)
    assert image.run_here == (ENVIRONMENTS[name].gpu is None), "what ran here is the CPU builds, and all of them"
    assert image.run_here or image.sources, "an image that was not run needs its sources"


@pytest.mark.parametrize("name", [n for n, i in WORKERS.items() if i.driver_floor])
def test_driver_floors_are_those_that_sizing_plans_with(name: str) -> None:
    assert WORKERS[name].driver_floor == (engines.CUDA13_DRIVER if name.endswith(("cuda", "cuda13")) else engines.CUDA12_DRIVER)


@pytest.mark.parametrize("name", IMAGES)
def test_bases_are_pinned_and_name_no_registry(name: str) -> None:
    base = IMAGES[name].base
    assert PINNED.match(base), f"{base}: a tag with a version"
    assert "." not in base.split("/")[0] or "/" not in base, f"{base}: no registry host"


@pytest.mark.parametrize("name", IMAGES)
def test_every_build_argument_is_declared_and_every_declared_one_is_given(name: str) -> None:
    image = IMAGES[name]
    declared = set(re.findall(r"^ARG (\w+)", (ROOT / image.dockerfile).read_text(encoding="utf8"), re.MULTILINE))
    assert declared == set(image.build_args(VERSION))


@pytest.mark.parametrize("image", [i for i in IMAGES.values() if i.run_here], ids=lambda i: i.environment)
def test_a_dockerfile_without_arguments_is_the_cpu_build(image: Image) -> None:
    text = (ROOT / image.dockerfile).read_text(encoding="utf8")
    defaults = {name: value.strip('"') for name, value in re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE)}
    assert defaults == dict(image.build_args(VERSION))


def test_the_three_worker_files_differ_in_names_only() -> None:
    """One text thrice: a repair of one that the others miss is found here."""
    texts = set()
    for image in (IMAGES[n] for n in ("vllm-cpu", "llamacpp-cpu", "diffusion-cpu")):
        text = (ROOT / image.dockerfile).read_text(encoding="utf8")
        text = re.sub(r"^# .*?: one worker", "# ENGINE: one worker", text)
        text = re.sub(r'(ARG APT=|image\.description=).*', r"\1", text)
        texts.add(text.replace(image.environment, "ENV").replace(image.repository.removeprefix("rigserve/"), "NAME"))
    assert len(texts) == 1


def test_the_page_has_the_table() -> None:
    page, rows = PAGE.read_text(encoding="utf8"), image_rows(IMAGES, VERSION)
    assert between(page, "table") == rows, f"docs/images.md differs from services/deploy/images.yaml; it should read:\n{rows}"
    assert replaced(page, "table", rows) == page


@pytest.mark.parametrize("kind", STARTS)
def test_light_lock_files_hold_what_is_imported_and_nothing_else(kind: str) -> None:
    pins = pins_of(kind)
    developers = pins_of("dev")
    assert pins == {name: developers[name] for name in pins}
    imported = {PACKAGE_OF.get(head, re.sub(r"[-_.]+", "-", head).lower()) for head in third_party(STARTS[kind])} - NEVER_REACHED
    wanted = closure(imported | {extra for name in imported for extra in ADDED_BY_EXTRAS.get(name, set())})
    assert set(pins) == wanted


def test_the_gateway_has_no_engine_and_no_downloader() -> None:
    assert not set(pins_of("gateway")) & {"torch", "numpy", "huggingface-hub", "httpx2", "highspy", "nvidia-ml-py"}


def pins_of(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): pinned for name, pinned in pins}


def closure(names: set[str]) -> set[str]:
    """`names` and all that they require, on this platform and without extras."""
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        found.add(name)
        needs = (Requirement(text) for text in requires(name) or ())
        left |= {re.sub(r"[-_.]+", "-", n.name).lower() for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})} - found
    return found


def third_party(starts: tuple[str, ...]) -> set[str]:
    """The packages that the modules reachable from `starts` import, at the top or inside functions."""
    heads: set[str] = set()
    seen: set[Path] = set()
    left = list(starts)
    while left:
        path = module_file(left.pop())
        if path is None or path in seen:
            continue
        seen.add(path)
        if path.relative_to(ROOT).as_posix() in IN_THE_ENGINE:
            continue
        for name in imports_of(path):
            if name.startswith("services"):
                left.append(name)
            elif name.split(".")[0] not in sys.stdlib_module_names:
                heads.add(name.split(".")[0])
    return heads


def module_file(module: str) -> Path | None:
    stem = ROOT / module.replace(".", "/")
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module and node.module.startswith("services"))


def test_reading_the_table_twice_gives_the_same() -> None:
    assert isinstance(IMAGES, Mapping)
    assert load_images() == IMAGES
