"""The image table, images.yaml: which container image serves an engine environment, what it stands on, what it needs of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

TABLE = Path(__file__).with_name("images.yaml")
GATEWAY = "gateway"


class ImageError(Exception):
    """There is no such image, or the table can't be trusted. The message is the sentence for the user."""


class Devices(StrEnum):
    """What of the host a container of the image is given."""

    NONE = "none"
    NVIDIA = "nvidia"  # a device reservation by the card's UUID
    RENDER = "render"  # the card's render node, and the render group
    KFD = "kfd"  # the render node and /dev/kfd


@with_config(ConfigDict(extra="forbid", strict=False))
@dataclass(frozen=True, slots=True)
class Image:
    """One row. `environment` is the engine environment that lies in it, or "gateway".

    `apt`: packages of the system that the build adds. `driver_floor`: the oldest NVIDIA driver branch. `compute_capability_from`: the
    first NVIDIA generation with kernels in it. `tmp_exec`: code in /tmp must be allowed to run. `shm_bytes`: /dev/shm where docker's
    64 MiB won't do. `cache_kept`: /var/cache/rigserve is worth a named volume. `run_here`: built, and its engine started, in our tests.
    """

    environment: str
    repository: str
    dockerfile: str
    devices: Devices
    cards: str
    base: str
    tmp_exec: bool
    shm_bytes: int | None
    cache_kept: bool
    run_here: bool
    flavour: str = ""
    apt: tuple[str, ...] = ()
    compute_capability_from: str | None = None
    driver_floor: int | None = None
    sources: tuple[str, ...] = ()

    def tag(self, version: str) -> str:
        """`0.1.0-cuda12`; the gateway has one flavour and its tag is the version alone."""
        return f"{version}-{self.flavour}" if self.flavour else version

    def reference(self, version: str) -> str:
        return f"{self.repository}:{self.tag(version)}"

    def build_args(self, version: str) -> Mapping[str, str]:
        """Every argument that the Dockerfile declares, in its order."""
        args = {"BASE": self.base}
        if self.environment != GATEWAY:
            args |= {"APT": " ".join(self.apt), "ENVIRONMENT": self.environment}
        args["VERSION"] = version
        if self.environment != GATEWAY:
            args["REQUIRE"] = f"driver>={self.driver_floor}" if self.driver_floor else ""
        return MappingProxyType(args)


_ROWS: TypeAdapter[dict[str, Image]] = TypeAdapter(dict[str, Image])


def load_images(path: Path = TABLE) -> Mapping[str, Image]:
    """Every row by its environment. Raises ImageError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf8"))
        rows = _ROWS.validate_python({name: {"environment": name, **row} for name, row in raw.items()})
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValidationError) as error:
        raise ImageError(f"the image table {path} can't be read: {error}") from error
    return MappingProxyType(rows)


def image_of(images: Mapping[str, Image], environment: str) -> Image:
    """Raises ImageError for an environment that no image has."""
    if environment not in images:
        raise ImageError(f"there is no container image with the engine environment {environment!r}; there are: {', '.join(sorted(images))}")
    return images[environment]
