"""`rigserve plan` with goals and explanations, `models --card`: text and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.columns import aligned
from services.cli.main import main
from services.sizing.planfile import load_plan

RIG = ["--cards", "P104-100 8GB@gen1x1:6,RTX 3060 Ti:2,RX 580 8GB:4", "--host-ram", "8"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


SMALL_RIG = ["--cards", "P104-100 8GB@gen1x1:3,RX 580 8GB:2", "--host-ram", "8"]


@pytest.mark.parametrize("goal", ["quality", "throughput", "coverage"])
def test_goals_are_explained_in_json(goal: str) -> None:
    whole = json.loads(run("plan", *SMALL_RIG, "--goal", goal, "--explain", "--json").output)
    assert whole["explanation"]["goal"] == goal
    assert whole["explanation"]["complete"] is True
    assert all(chosen["choice"]["terms"] for chosen in whole["explanation"]["chosen"])
    assert len(whole["cards"]) == 5


def test_goals_are_explained_in_text(tmp_path: Path) -> None:
    out = tmp_path / "plan.yaml"
    shown = run("plan", *RIG, "--goal", "quality", "--explain", "--out", str(out))
    assert shown.exit_code == 0, shown.output
    for words in ("why: quality.", "optimal", "runner-up", "not taken because:", "MiB of host RAM used"):
        assert words in shown.output
    assert len(load_plan(out).placements) == 12, "and serve can obey it"
    assert "explanation" not in json.loads(run("plan", *SMALL_RIG, "--json").output)


def test_the_built_in_plan_says_that_nothing_was_weighed() -> None:
    shown = run("plan", "--card-memory", "4GiB", "--explain")
    assert "nothing was weighed" in shown.output
    assert "simulated: true" in shown.output


@pytest.mark.parametrize("arguments", [["--tensor-parallel", "2"], ["--want", "qwen3-32b@tp2"], ["--want", "qwen3-32b:1@TP4"]])
def test_splitting_is_refused_with_numbers(arguments: list[str]) -> None:
    shown = run("plan", *RIG, *arguments)
    assert shown.exit_code == 1
    assert "608" in shown.output
    assert "--want MODEL:2" in shown.output
    assert "Traceback" not in shown.output


def test_one_way_is_no_splitting() -> None:
    assert run("plan", *RIG, "--want", "qwen3-4b@tp1", "--tensor-parallel", "1").exit_code == 0


@pytest.mark.parametrize("arguments", [["--goal", "world-peace"], ["--goal", "quality", "--want", "sdxl"], ["--tensor-parallel", "0"],
                                       ["--want", "sdxl:٣"], ["--want", ""], ["--want", ":2"],
                                       ["--host-ram", ""], ["--host-ram", "9" * 400], ["--card-memory", ""], ["--out", ""],
                                       ["--out", "/no/such/folder/plan.yaml"]])
def test_bad_input_is_a_sentence(arguments: list[str]) -> None:
    shown = run("plan", *RIG, *arguments)
    assert shown.exit_code in (1, 2)
    assert "Error" in shown.output
    assert "Traceback" not in shown.output


def test_refusals_are_shown_once_for_each_kind_of_card() -> None:
    shown = run("plan", *RIG, "--want", "qwen2.5-32b-instruct")
    assert shown.exit_code == 1, "nothing could be placed"
    assert shown.output.count("does not fit") == 3
    assert "is not split" in shown.output


def test_models_for_a_card_best_first() -> None:
    shown = run("models", "--card", "P106-100", "--host-ram", "8")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert "best first" in lines[0]
    assert [line for line in lines if line in ("chat", "chat with pictures", "image", "embedding")] == [
        "chat", "chat with pictures", "image", "embedding",
    ]
    assert "808" not in shown.output
    digits = next(line for line in lines if "digits-sd" in line)
    assert "unknown" in digits
    assert "fixed cost of a step" in shown.output
    assert any(line.startswith("[1] Predicted") for line in lines)
    reports = json.loads(run("models", "--card", "P106-100", "--host-ram", "8", "--json").output)
    assert reports[0]["model_id"] in lines[3]


def test_what_was_taken_for_granted_is_in_the_json_too() -> None:
    notes = json.loads(run("plan", "--cards", "RTX 3060 Ti", "--card-memory", "4GiB", "--json").output)["notes"]
    assert any("cards as described" in note for note in notes)
    assert any("--card-memory" in note and "not used" in note for note in notes)
    assert any("--host-ram" in note for note in notes)


def test_a_budget_beyond_the_host_is_said() -> None:
    assert "is more than the" in run("plan", "--card-memory", "60TiB").output
    assert "is more than the" not in run("plan", "--card-memory", "1MiB").output


def test_a_host_that_holds_no_engine_is_the_reason() -> None:
    shown = run("plan", "--cards", "RTX 3060 Ti:2", "--host-ram", "0.1")
    assert shown.exit_code == 1
    assert "because the host RAM has only 0 MiB left for engines" in shown.output


def test_models_takes_one_kind_of_card() -> None:
    assert run("models", "--card", "P106-100:2", "--host-ram", "8").exit_code == 0
    for arguments in (["--card", "P106-100,RTX 3060 Ti"], ["--card", ""], ["--host-ram", "8"]):
        shown = run("models", *arguments)
        assert shown.exit_code == 2, arguments
        assert "Error" in shown.output


def test_columns() -> None:
    assert aligned([("a", "bb", "c"), ("aaa", "b", "long last")]) == ["a     bb   c", "aaa   b    long last"]
    assert aligned([]) == []
