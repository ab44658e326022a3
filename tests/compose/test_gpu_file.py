"""The committed compose file of a rig of nine cards, byte for byte, on an engine without a GPU: which container is given which card.

The engine has a stand-in for NVIDIA's hook, the images are stand-ins, AMD's render node is the null device. What this proves: names, order,
reservations, groups, networks, secrets, and the real gateway over nine workers. What it does not: drivers, CUDA, any engine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.compose_folder import owner_of_containers, write_secrets
from services.deploy.names import service_names
from services.sizing.planfile import load_plan
from services.sizing.types import Plan
from tests.compose.engine import Engine, Images
from tests.compose.running_stack import RunningStack, free_port, up
from tests.compose.stand_in_images import render_node, stand_ins
from tests.deploy.nine_cards import FOLDER, RENDER_GID
from tests.e2e.stack import get, post

pytestmark = pytest.mark.compose
PLAN: Plan = load_plan(FOLDER / "plan.yaml")
SERVICES = service_names(placement.id for placement in PLAN.placements)
CARDS = {SERVICES[placement.id]: placement.card_id for placement in PLAN.placements}
NVIDIA = {service: card for service, card in CARDS.items() if card.startswith("GPU-")}
(AMD,) = set(CARDS) - set(NVIDIA)
RENDER_NODE = Path("/dev/dri/renderD128")


@pytest.fixture(scope="module")
def rig(docker_engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    if shutil.which("nvidia-container-runtime-hook") or shutil.which("nvidia-container-runtime"):
        pytest.skip("this machine has NVIDIA's own hook, which refuses cards that are made up")
    folder = tmp_path_factory.mktemp("gpu") / "nine-cards"
    shutil.copytree(FOLDER, folder)
    stack = RunningStack(docker_engine, folder, f"rst-nine-{free_port()}", free_port())
    with pytest.MonkeyPatch.context() as env:
        env.setenv("RIGSERVE_PORT", str(stack.port))
        config = stack.config()
        write_secrets(folder, config["secrets"], owner_of_containers()[1])
        pretended = {service["image"] for name, service in config["services"].items() if name in CARDS or name.startswith("fetch-")}
        with (render_node(RENDER_NODE, RENDER_GID),
              stand_ins(docker_engine, images.reference("gateway"), pretended, tmp_path_factory.mktemp("image")), up(stack)):  # fmt: skip
            yield stack


def environment_of_pid_1(stack: RunningStack, service: str) -> dict[str, str]:
    text = stack.inside(service, "cat", "/proc/1/environ")
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


def test_the_file_is_the_committed_one_and_all_of_it_runs(rig: RunningStack) -> None:
    assert rig.file.read_bytes() == (FOLDER / "compose.yaml").read_bytes()
    assert rig.services() == sorted(["gateway", *CARDS])
    assert {rig.inspect(service)["State"]["Health"]["Status"] for service in rig.services()} == {"healthy"}
    assert len(NVIDIA) == 8
    assert len({rig.config()["services"][service]["image"] for service in CARDS}) >= 4, "the image is chosen per card"


@pytest.mark.parametrize("service", NVIDIA)
def test_each_container_has_exactly_its_own_card(rig: RunningStack, service: str) -> None:
    assert environment_of_pid_1(rig, service)["NVIDIA_VISIBLE_DEVICES"] == NVIDIA[service]
    (asked,) = rig.inspect(service)["HostConfig"]["DeviceRequests"]
    assert (asked["Driver"], asked["DeviceIDs"], asked["Count"]) == ("nvidia", [NVIDIA[service]], 0)
    assert rig.inside(service, "sh", "-c", "ls /dev/dri 2>/dev/null || echo none") == "none"


def test_the_amd_card_is_one_render_node_and_its_group(rig: RunningStack) -> None:
    assert rig.inside(AMD, "ls", "/dev/dri").split() == ["renderD128"]
    assert str(RENDER_GID) in rig.inside(AMD, "id", "-G").split()
    assert "NVIDIA_VISIBLE_DEVICES" not in environment_of_pid_1(rig, AMD)
    assert not rig.inspect(AMD)["HostConfig"]["DeviceRequests"]
    assert rig.inside(AMD, "sh", "-c", "test -r /dev/dri/renderD128 -a -w /dev/dri/renderD128 && echo usable") == "usable"


def test_the_gateway_has_no_card(rig: RunningStack) -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in environment_of_pid_1(rig, "gateway")
    assert not rig.inspect("gateway")["HostConfig"]["DeviceRequests"]


def test_workers_were_started_in_the_plans_order_each_after_the_one_before_was_healthy(rig: RunningStack) -> None:
    started = [rig.inspect(service)["State"]["StartedAt"] for service in CARDS]
    assert started == sorted(started)
    for before, service in zip(list(CARDS), list(CARDS)[1:], strict=False):
        first_well = next(look["End"] for look in rig.inspect(before)["State"]["Health"]["Log"] if look["ExitCode"] == 0)
        assert _plain(first_well) < rig.inspect(service)["State"]["StartedAt"], (before, service)


def _plain(stamp: str) -> str:
    """A local stamp of the engine's as UTC."""
    whole, _, rest = stamp.partition(".")
    zone = rest.lstrip("0123456789").replace("Z", "+00:00")
    moment = datetime.fromisoformat(f"{whole}{zone}").astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def test_the_real_gateway_serves_all_nine(rig: RunningStack) -> None:
    rig.wait_all_ready(20)
    shown = {card["id"]: [p["id"] for p in card["placements"]] for card in get(f"{rig.url}/v1/cards")["data"]}
    assert shown == {card.id: [p.id for p in PLAN.placements if p.card_id == card.id] for card in PLAN.cards}
    for model in {placement.model_id for placement in PLAN.placements if placement.choice.engine.value != "diffusers"}:
        status, answer, headers = rig.chat(model)
        assert (status, answer["model"]) == (200, model)
        assert headers["x-rigserve-card"] in {p.card_id for p in PLAN.placements if p.model_id == model}
    status, _, _ = post(f"{rig.url}/v1/images/generations", {"model": "tiny-sd", "prompt": "a riser", "n": 1})
    assert status == 200


def test_compose_reads_the_committed_file_without_a_word(docker_engine: Engine) -> None:
    for profiles in (("gpu",), ("gpu", "monitoring"), ("*",)):
        words = [word for profile in profiles for word in ("--profile", profile)]
        done = docker_engine.docker("compose", "-f", str(FOLDER / "compose.yaml"), *words, "config", "-q")
        assert (done.stdout, done.stderr) == ("", ""), profiles
