"""`rigserve compose` on a real disk: what lies in the folder, who may read it, what is kept."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.main import main
from services.hardware.host import read_host
from services.sizing.cards import simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import decide
from services.sizing.planfile import dump_plan
from services.sizing.types import Engine
from tests.deploy.nine_cards import FOLDER


def rigserve(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made from a plan of two simulated cards with the same small model."""
    folder = tmp_path_factory.mktemp("rig")
    host = read_host(Path("/proc"), Path("/sys"))
    cards = tuple(simulated_cpu_card(1536 * 2**20, index) for index in range(2))
    plan = decide(host, cards, load_catalogue(), want=[("smollm2-135m-instruct", 2)], engine=Engine.LLAMACPP).plan
    (folder / "given.yaml").write_text("# mine\n" + dump_plan(plan), encoding="utf8")
    done = rigserve("compose", folder / "given.yaml", "-o", folder / "out", "--port", 8321)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def rig(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "rig")
    return tmp_path / "rig"


def test_the_folder_holds_all_that_belongs_to_it(rig: Path) -> None:
    out = rig / "out"
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"compose.yaml", "plan.yaml", "endpoints.json", ".env", "secrets/grafana", "secrets/smollm2-135m-instruct-1",
            "loadtest/locustfile.py", "monitoring/prometheus.yml", "monitoring/alerts.yml"} <= names
    assert (out / "plan.yaml").read_bytes() == (rig / "given.yaml").read_bytes()
    endpoints = json.loads((out / "endpoints.json").read_text())["endpoints"]
    assert endpoints[0] == {
        "placement_id": "smollm2-135m-instruct-1", "worker_url": "http://smollm2-135m-instruct-1:9100",
        "engine_url": "http://smollm2-135m-instruct-1:9101", "token_file": "/run/secrets/smollm2-135m-instruct-1",
    }


def test_secrets_are_private_random_and_kept(rig: Path) -> None:
    out = rig / "out"
    before = {path.name: path.read_text() for path in (out / "secrets").iterdir()}
    tokens = [text for name, text in before.items() if name.startswith("smollm2")]
    assert len(set(tokens)) == 2
    assert all(len(token) == 64 for token in tokens)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o400 for path in (out / "secrets").iterdir())
    assert stat.S_IMODE((out / "secrets").stat().st_mode) == 0o700
    assert all(text not in (out / name).read_text() for text in tokens for name in ("compose.yaml", ".env", "endpoints.json"))
    assert rigserve("compose", rig / "given.yaml", "-o", out).exit_code == 0
    assert {path.name: path.read_text() for path in (out / "secrets").iterdir()} == before


def test_check_says_what_differs_and_writes_nothing(rig: Path) -> None:
    out = rig / "out" / "compose.yaml"
    assert rigserve("compose", rig / "given.yaml", "-o", out).exit_code == 0
    assert rigserve("compose", rig / "given.yaml", "-o", out, "--check").exit_code == 0
    out.write_text("name: mine\n", encoding="utf8")
    done = rigserve("compose", rig / "given.yaml", "-o", out, "--check", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["differing"] == ["compose.yaml"]
    assert out.read_text() == "name: mine\n"


def test_what_the_owner_wrote_into_env_stays(rig: Path) -> None:
    env = rig / "out" / ".env"
    env.write_text(env.read_text().replace("COMPOSE_PROFILES=cpu", "COMPOSE_PROFILES=cpu,monitoring") + "RIGSERVE_GRAFANA_PORT=3001\n")
    assert rigserve("compose", rig / "given.yaml", "-o", rig / "out", "--bind", "0.0.0.0").exit_code == 0
    lines = env.read_text().splitlines()
    for line in ("COMPOSE_PROFILES=cpu,monitoring", "RIGSERVE_GRAFANA_PORT=3001", "RIGSERVE_PORT=8321", "RIGSERVE_BIND=0.0.0.0"):
        assert line in lines


def test_a_described_rig_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    assert rigserve("plan", "--cards", "RTX 3060 Ti", "--host-ram", "8GiB", "--out", plan).exit_code == 0
    done = rigserve("compose", plan, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "described, not detected" in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_written_is_a_sentence(rig: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = rigserve("compose", rig / "given.yaml", "-o", tmp_path / "file" / "compose.yaml")
    assert done.exit_code == 1
    assert "can't be written" in done.output


def test_json_and_help() -> None:
    done = rigserve("compose", FOLDER / "plan.yaml", "--check", "-o", FOLDER / "compose.yaml", "--json")
    assert set(json.loads(done.stdout)) == {"folder", "differing"}
    for command in ("compose", "up", "down", "ps", "logs", "upgrade"):
        told = rigserve(command, "--help")
        assert told.exit_code == 0
        assert "Example: rigserve" in told.output
