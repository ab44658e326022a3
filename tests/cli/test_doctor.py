"""`rigserve doctor`: text, JSON, exit codes; for real on this machine and on played rigs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli import doctor as command
from services.cli.doctor_text import report_lines
from services.cli.main import main
from services.doctor.finding import Severity
from services.doctor.readings import Readings
from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan
from tests.doctor.player import readings, report


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rig: str) -> Readings:
    got = readings(rig, tmp_path / "root")
    monkeypatch.setattr(command, "read", lambda weights: got)
    return got


def test_this_machine_for_real() -> None:
    shown = run("--json")
    assert shown.exit_code in (0, 1), shown.output
    found = json.loads(shown.output)
    assert set(found) == {"looked_at", "counts", "findings"}
    assert sum(found["counts"].values()) == len(found["findings"])
    assert shown.exit_code == (1 if found["counts"]["error"] else 0)
    assert {"rule", "id", "severity", "subject", "seen", "why", "source", "fix", "advice"} <= set(found["findings"][0])


@pytest.mark.parametrize(("rig", "code"), [
    ("clean_3060ti", 0), ("no_docker", 0), ("riser_gen1_x1", 0), ("xid79", 1), ("p106_on_590", 1), ("tiny_host", 1)])
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rig: str, code: int) -> None:
    played(monkeypatch, tmp_path, rig)
    assert run().exit_code == code


def test_text_says_the_worst_first_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, "p106_on_590")
    lines = run().output.splitlines()
    assert lines[1] == "3 errors, 1 warning, 1 note, 0 unknown, 10 ok"
    first = next(line for line in lines if line.startswith("ERROR"))
    assert first == "ERROR  driver-branch (rule 2)"
    assert "    run: sudo nvidia-driver-update 580.126.18 && sudo reboot" in lines
    assert sum("nvidia-driver-update" in line for line in lines) == 1, "two cards, one command"


@pytest.mark.parametrize("rig", ["mixed_on_535", "xid79"])
@pytest.mark.parametrize("width", [50, 120])
def test_sentences_wrap_and_commands_stay_whole(tmp_path: Path, rig: str, width: int) -> None:
    found = report(rig, tmp_path)
    lines = report_lines(found, width)
    commands = {line for finding in found.findings if finding.severity is not Severity.OK for line in (finding.fix or "").splitlines()}
    assert commands
    assert {line.removeprefix("    run: ") for line in lines if line.startswith("    run: ")} == commands
    long = [line for line in lines if len(line) > width and not line.startswith("    run: ")]
    assert all(len(max(line.split(), key=len)) > width - 12 for line in long), long


def test_a_plan_for_other_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got = played(monkeypatch, tmp_path, "clean_3060ti")
    plan = make_plan(got.host, parse_cards("RTX 3060 Ti#GPU-ffffffff-1111"), load_catalogue(), want=[("llama-3.1-8b-instruct", 1)])
    path = tmp_path / "plan.yaml"
    path.write_text(dump_plan(plan), encoding="utf8")
    shown = run("--plan", str(path))
    assert shown.exit_code == 1
    assert "GPU-ffffffff-1111" in shown.output


@pytest.mark.parametrize("arguments", [["--plan", "/nowhere/plan.yaml"], ["--port", "0"], ["--port", "x"], ["--what"]])
def test_wrong_calls(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_broken_plan_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("version: [", encoding="utf8")
    shown = run("--plan", str(path))
    assert shown.exit_code == 2, shown.output
    assert "not valid YAML" in shown.output
    assert "Traceback" not in shown.output
