"""up, down, ps, logs and upgrade against a docker program that records what it is asked."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from services.cli import upgrade as upgrade_module
from services.cli.docker import parsed
from services.cli.up import seconds
from services.hardware import detect as detect_module
from tests.cli.test_compose import made, rig, rigserve
from tests.deploy.nine_cards import FOLDER

pytestmark = pytest.mark.slow

__all__ = ["made", "rig"]  # fixtures
FAKE = Path(__file__).with_name("fake_docker.py")
ONE, TWO = "smollm2-135m-instruct-1", "smollm2-135m-instruct-2"


class Docker:
    """The state of the fake, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set()

    def set(self, **state: Any) -> None:
        (self.folder / "calls").write_text("")
        (self.folder / "state.json").write_text(json.dumps({"root": str(self.folder), "containers": [], **state}))

    @property
    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return told

    @property
    def calls(self) -> list[str]:
        lines = [" ".join(json.loads(line)) for line in (self.folder / "calls").read_text().splitlines()]
        return [re.sub(r"compose -f \S+", "compose", line) for line in lines]

    def changing(self) -> list[str]:
        """The calls that start, stop or build something."""
        return [call for call in self.calls if re.match(r"build|compose (--profile \* )?(up|rm|run|down|stop|build)", call)]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    folder = tmp_path / "docker"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "docker").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} "$@"\n')
    (folder / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_DOCKER", str(folder))
    monkeypatch.setattr("services.cli.up.POLL_S", 0.01)
    monkeypatch.setattr(upgrade_module, "POLL_S", 0.01)
    monkeypatch.setattr(upgrade_module, "SEEN_S", 0.0)
    return Docker(folder)


def on(rig: Path, command: str, *words: str) -> Result:
    file = rig / "out" / "compose.yaml"
    file.with_suffix(".json").write_text(json.dumps(yaml.load(file.read_text(), Loader=yaml.CSafeLoader)))
    return rigserve(command, "--file", file, *words)


def container(name: str, **more: Any) -> dict[str, Any]:
    return {"Service": name, "Name": f"x-{name}-1", "State": "running", "Health": "healthy", "ExitCode": 0, "Status": "Up", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_up_checks_then_starts_and_waits(rig: Path, docker: Docker) -> None:
    docker.set(port=free_port())
    done = on(rig, "up", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["started"] is True
    assert told["not_ready"] == []
    assert told["url"] == "http://127.0.0.1:8321"
    assert docker.changing() == ["compose up --detach --no-build --remove-orphans"]


def test_up_says_which_placement_is_not_ready(rig: Path, docker: Docker) -> None:
    docker.set(port=free_port(), becomes={TWO: "unhealthy"})
    done = on(rig, "up")
    assert done.exit_code == 1
    assert f"{TWO}: running unhealthy; why: rigserve logs {TWO}" in done.output
    assert "1 of 2 placements ready" in done.output


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"compose": "2.17.2"}, "docker compose is 2.17.2; 2.26 or newer is needed"),
        ({"engine": "20.10.24+dfsg1"}, "the docker engine is 20.10.24+dfsg1; 25.0 or newer"),
        ({"fails": {"compose version": [1, "docker: 'compose' is not a docker command."]}}, "docker has no `docker compose` command"),
        ({"fails": {"version --format": [1, "Cannot connect to the Docker daemon"]}}, "daemon does not answer"),
        ({"fails": {"config --format": [1, "yaml: line 3"]}}, "can't be used: yaml: line 3"),
        ({"missing_images": ["rigserve/gateway:0.1.0"]}, "rigserve up --build"),
    ],
)
def test_nothing_is_started_when_a_check_says_no(rig: Path, docker: Docker, state: dict[str, Any], words: str) -> None:
    docker.set(port=free_port(), **state)
    done = on(rig, "up")
    assert done.exit_code == 1
    assert words in done.output
    assert "Traceback" not in done.output
    assert docker.changing() == []


def test_no_docker_at_all(rig: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = on(rig, "up")
    assert done.exit_code == 1
    assert "there is no docker program" in done.output
    assert "rigserve serve" in done.output


def test_a_port_in_use(rig: Path, docker: Docker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        docker.set(port=taken.getsockname()[1])
        done = on(rig, "up")
        assert f"port {taken.getsockname()[1]} of 127.0.0.1 can't be used by gateway" in done.output
        assert docker.changing() == []
        docker.set(port=taken.getsockname()[1], containers=[container("gateway")])  # it is our own
        assert on(rig, "up").exit_code == 0


def test_a_full_disk(rig: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.set(port=free_port())
    monkeypatch.setattr("services.cli.up_checks.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10 * 2**20})())
    done = on(rig, "up")
    assert "has 10 MiB free" in done.output
    assert docker.changing() == []


def test_build_makes_what_is_missing_with_the_tables_arguments(rig: Path, docker: Docker, tmp_path: Path) -> None:
    docker.set(port=free_port(), missing_images=["rigserve/llm-llamacpp:0.1.0-cpu"])
    done = on(rig, "up", "--build", "--wheels", str(tmp_path))
    assert done.exit_code == 0, done.output
    build, up = docker.changing()
    assert build.startswith("build -t rigserve/llm-llamacpp:0.1.0-cpu -f ")
    assert "--build-arg ENVIRONMENT=llamacpp-cpu" in build
    assert f"--build-context wheels={tmp_path}" in build
    assert up.startswith("compose up")


def test_the_plan_of_another_machine(tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rig" / "out"
    assert rigserve("compose", FOLDER / "plan.yaml", "-o", out).exit_code == 0
    docker.set(port=free_port())
    done = on(tmp_path / "rig", "up")
    assert "none of the 9 cards of this plan is in this machine" in done.output
    assert docker.changing() == []


def test_one_card_is_gone_and_one_has_moved(tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from services.sizing.planfile import load_plan

    plan = load_plan(FOLDER / "plan.yaml")
    here = [replace(card, render_node="/dev/dri/renderD129") if card.vendor == "amd" else card for card in plan.cards[1:]]
    found = detect_module.Detection(plan.host, tuple(here), ())
    monkeypatch.setattr("services.cli.up.detect", lambda: found)
    assert rigserve("compose", FOLDER / "plan.yaml", "-o", tmp_path / "rig" / "out").exit_code == 0
    docker.set(port=free_port())
    done = on(tmp_path / "rig", "up", "--json")
    assert done.exit_code == 1
    sentences = [problem["sentence"] for problem in json.loads(done.stdout)["problems"] if problem["check"] == "cards"]
    assert len(sentences) == 2
    assert f"card {plan.cards[0].id} (NVIDIA P104-100) is not in this machine any more" in sentences[0]
    assert "is now /dev/dri/renderD129" in sentences[1]
    assert docker.changing() == []


def test_down_ps_and_logs(rig: Path, docker: Docker) -> None:
    docker.set(containers=[container("gateway"), container(ONE), container("fetch-llamacpp-cpu", State="exited", Health="")])
    told = json.loads(on(rig, "ps", "--json").stdout)
    assert told["missing"] == [TWO]
    assert [row["simulated"] for row in told["containers"]] == [None, True, None]
    assert on(rig, "ps").exit_code == 1
    assert on(rig, "logs", ONE, "--tail", "5").exit_code == 0
    assert docker.calls[-1] == f"compose --profile * logs --tail 5 {ONE}"
    assert on(rig, "logs", "nobody").exit_code == 2
    assert json.loads(on(rig, "down", "--volumes", "--json").stdout) == {"stopped": True, "volumes_removed": True}
    assert docker.calls[-1] == "compose --profile * down --remove-orphans --volumes"


def test_no_folder_is_a_sentence(tmp_path: Path, docker: Docker) -> None:
    for command in ("up", "down", "ps", "logs", "upgrade"):
        done = rigserve(command, "--file", tmp_path / "nothing.yaml")
        assert done.exit_code == 1
        assert "rigserve compose PLAN -o" in done.output


def running(**more: Any) -> list[dict[str, Any]]:
    return [container("gateway"), container(ONE, **more), container(TWO, **more)]


def test_upgrade_rolls_one_at_a_time_and_waits(rig: Path, docker: Docker) -> None:
    docker.set(port=free_port(), containers=running(), hashes={ONE: "new", TWO: "new"})
    dry = json.loads(on(rig, "upgrade", "--dry-run", "--json").stdout)["steps"]
    assert [(step["service"], step["others"]) for step in dry] == [(ONE, [TWO]), (TWO, [ONE])]
    assert docker.changing() == []
    done = on(rig, "upgrade", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["upgraded"] == [ONE, TWO]
    each = [("run --rm --no-deps fetch-llamacpp-cpu", f"rm --stop --force {name}", f"up --detach --no-build --no-recreate {name}")
            for name in (ONE, TWO)]
    assert docker.changing() == [f"compose {words}" for step in each for words in step] + [
        "compose up --detach --no-build --no-recreate --remove-orphans"]
    assert on(rig, "upgrade").output.endswith("nothing, all runs as the file says\n")


def test_upgrade_takes_an_image_that_was_built_anew(rig: Path, docker: Docker) -> None:
    docker.set(port=free_port(), containers=running(), image_ids={"rigserve/gateway:0.1.0": "sha256:other"})
    steps = json.loads(on(rig, "upgrade", "--dry-run", "--json").stdout)["steps"]
    assert [(step["service"], step["why"]) for step in steps] == [("gateway", "its image was built anew")]


def test_upgrade_stops_at_the_first_failure_and_says_how_to_go_back(rig: Path, docker: Docker) -> None:
    docker.set(port=free_port(), containers=running(), hashes={ONE: "new", TWO: "new"}, becomes={ONE: "unhealthy"})
    done = on(rig, "upgrade")
    assert done.exit_code == 1
    assert f"{ONE}: it did not become ready (unhealthy)" in done.output
    assert "rigserve upgrade --back" in done.output
    assert not any(call.endswith(TWO) for call in docker.changing())


def test_upgrade_never_takes_the_last_replica(rig: Path, docker: Docker) -> None:
    containers = [container("gateway"), container(ONE), container(TWO, Health="unhealthy")]
    docker.set(port=free_port(), containers=containers, hashes={ONE: "new"})
    done = on(rig, "upgrade")
    assert done.exit_code == 1
    assert "no other replica of smollm2-135m-instruct is ready" in done.output
    assert docker.changing() == []


def test_back_puts_the_files_before_in_place(rig: Path, docker: Docker) -> None:
    out = rig / "out" / "compose.yaml"
    before = out.read_text()
    assert rigserve("compose", rig / "given.yaml", "-o", out, "--drain-s", "5").exit_code == 0
    after = out.read_text()
    assert after != before
    docker.set(port=free_port(), containers=running())
    assert on(rig, "upgrade", "--back").exit_code == 0
    assert out.read_text() == before
    assert on(rig, "upgrade", "--back").exit_code == 0  # and forth again
    assert out.read_text() == after


def test_times_and_versions() -> None:
    assert seconds("1h2m3s") == 3723.0
    assert seconds("17m20s") == 1040.0
    assert seconds("500ms") == 0.5
    assert parsed("v26.1.5+dfsg1") == (26, 1)
    assert parsed("2.26.1-4") == (2, 26)
    assert parsed("nonsense") == (0, 0)
