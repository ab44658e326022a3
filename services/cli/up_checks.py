"""What must be true before a container is started. Every check is a sentence that says what to do; nothing here changes anything."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.docker import answers, ask, program
from services.cli.running import Generated
from services.hardware.detect import Detection
from services.provision.environment_table import ENVIRONMENTS
from services.sizing.types import Card
from services.sizing.units import GIB, gib

SPARE_BYTES = GIB
OURS = "rigserve/"


@dataclass(frozen=True, slots=True)
class Problem:
    """`check` names it: cards, images, disk, port, groups."""

    check: str
    sentence: str


def problems(stack: Generated, config: Mapping[str, Any], found: Detection, *, build: bool) -> list[Problem]:
    """1. Cards of the plan that this machine hasn't got. 2. The group of AMD's render nodes. 3. Images that are neither there nor to be
    built. 4. Room for images and weights. 5. Ports. All of them are said at once."""
    services: dict[str, Any] = config["services"]
    missing = missing_images(services)
    return [
        *_cards(stack, services, found),  # 1
        *_groups(services),  # 2
        *([] if build or not missing else [_images(missing)]),  # 3
        *_disk(stack, config, missing if build else {}),  # 4
        *_ports(stack, services),  # 5
    ]


def _cards(stack: Generated, services: Mapping[str, Any], found: Detection) -> Iterator[Problem]:
    used = {service.get("labels", {}).get("rigserve.card") for service in services.values()}
    wanted = [card for card in stack.plan.cards if card.id in used and not card.simulated]
    here = {card.id: card for card in found.cards}
    gone = [card for card in wanted if card.id not in here]
    if wanted and len(gone) == len(wanted):
        have = ", ".join(f"{card.name} ({card.id})" for card in found.cards) or "no card that can be used"
        yield Problem("cards", f"none of the {len(wanted)} cards of this plan is in this machine, which has {have}: is it the plan of "
                      "another machine? Plan anew: rigserve plan --out plan.yaml && rigserve compose plan.yaml")
        return
    for card in gone:
        yield Problem("cards", f"card {card.id} ({card.name}) is not in this machine any more: look at its riser and power, then "
                      "`rigserve detect`; without it, plan anew: rigserve plan --out plan.yaml && rigserve compose plan.yaml")
    yield from _moved(wanted, here)


def _moved(wanted: list[Card], here: Mapping[str, Card]) -> Iterator[Problem]:
    for card in wanted:
        now = here.get(card.id)
        if now is not None and card.render_node and now.render_node != card.render_node:
            yield Problem("cards", f"card {card.id} ({card.name}) is now {now.render_node or 'without a render node'}, the plan says "
                          f"{card.render_node}: plan anew: rigserve plan --out plan.yaml && rigserve compose plan.yaml")


def _groups(services: Mapping[str, Any]) -> Iterator[Problem]:
    for service in services.values():
        for device in service.get("devices") or []:
            node = device["source"] if isinstance(device, dict) else str(device).split(":")[0]
            if not Path(node).exists():
                yield Problem("groups", f"{node} is not there: is the amdgpu driver loaded? (`rigserve detect`)")
                return


def missing_images(services: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Our images that the engine hasn't got -> how to build each (compose's `build` of the service that has it)."""
    docker = program()
    found: dict[str, dict[str, Any]] = {}
    for service in services.values():
        name = service["image"]
        if name.startswith(OURS) and (name in found or not answers([docker, "image", "inspect", name])):
            found[name] = service.get("build") or found.get(name) or {}
    return found


def _images(missing: Mapping[str, Any]) -> Problem:
    return Problem("images", f"{len(missing)} image{'s are' if len(missing) > 1 else ' is'} not on this machine: {', '.join(missing)}; "
                   "build what is missing with `rigserve up --build`, or load it with `docker load`")


def _disk(stack: Generated, config: Mapping[str, Any], to_build: Mapping[str, dict[str, Any]]) -> Iterator[Problem]:
    """Weights that are not there yet and images that will be built, against what is free where docker keeps them."""
    root = Path(json.loads(ask([program(), "info", "--format", "{{json .DockerRootDir}}"], "docker's folder is unknown")))
    weights = weights_folder(stack, config, root)
    need = _weights_bytes(stack, weights)
    images = [ENVIRONMENTS.get(build.get("args", {}).get("ENVIRONMENT", "")) for build in to_build.values()]
    need_images = sum(row.disk_bytes or 0 for row in images if row)
    places = {_existing(root): need_images}
    places[_existing(weights)] = places.get(_existing(weights), 0) + need
    for place, size in places.items():
        if not place.is_dir() or place == Path("/") != root:
            continue  # a daemon of another machine: its disk can't be seen from here
        free = shutil.disk_usage(place).free
        if size and size + SPARE_BYTES > free:
            yield Problem("disk", f"{place} has {gib(free)} free, but {gib(size)} of weights and images and {gib(SPARE_BYTES)} to spare "
                          "are needed: free some (docker system prune), or put weights on another disk: rigserve compose --weights FOLDER")


def weights_folder(stack: Generated, config: Mapping[str, Any], root: Path) -> Path:
    """Where weights lie on this machine: the folder given with --weights, else the volume's."""
    for service in config["services"].values():
        for volume in service.get("volumes") or []:
            if volume.get("target") == "/weights" and volume.get("type") == "bind":
                return Path(volume["source"])
    return root / "volumes" / f"{config['name']}_weights" / "_data"


def _weights_bytes(stack: Generated, folder: Path) -> int:
    """Disk that the weights of the plan still need; a variant with a manifest is there."""
    sizes = {(p.model_id, p.variant_id): (p.report.host.disk_bytes if p.report.host else None) or 0 for p in stack.plan.placements}
    return sum(size for (model, variant), size in sizes.items() if not _is_file(folder / "weights" / model / variant / "manifest.json"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # docker's own folder, seen by a user who may not look into it
        return False


def _existing(path: Path) -> Path:
    """The nearest folder above that is there and can be seen."""
    for folder in (path, *path.parents):
        try:
            if folder.is_dir():
                return folder
        except OSError:
            continue
    return Path("/")


def _ports(stack: Generated, services: Mapping[str, Any]) -> Iterator[Problem]:
    """Published ports that something else holds. A service that runs already holds its own."""
    running = {container.service for container in stack.compose.containers() if container.state == "running"}
    for name, service in services.items():
        for port in service.get("ports") or []:
            if name in running or not port.get("published"):
                continue
            host, number = port.get("host_ip") or "0.0.0.0", int(str(port["published"]).split("-")[0])  # noqa: S104 - asked, not served
            reason = _taken(host, number)
            if reason:
                how = f"rigserve compose --port {number + 1}" if name == "gateway" else "the port's line in .env"
                yield Problem("port", f"port {number} of {host} can't be used by {name} ({reason}): stop what uses it, or choose another "
                              f"with {how}")


def _taken(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None
