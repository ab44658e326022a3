"""Every command: help with an example, --json that parses, and a sentence instead of a traceback for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.main import COMMANDS, main
from services.cli.rig import size_bytes
from services.sizing.cards import simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import PlanFileError, dump_plan, load_plan
from services.sizing.types import Host

SIMULATED = ["--cards", "RTX 3060 Ti:1"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_has_an_example(command: str) -> None:
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: rigserve {command}" in " ".join(shown.output.split())


@pytest.mark.parametrize("arguments", [["detect"], ["models"], ["fit", "llama-3.1-8b-instruct", "--card", "RTX 3060 Ti"],
                                       ["plan", *SIMULATED], ["models", "--card", "P106-100"]])
def test_json_is_one_document(arguments: list[str]) -> None:
    shown = run(*arguments, "--json")
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    assert json.loads(shown.output)


def test_fit_says_the_arithmetic_in_text_and_json() -> None:
    text = run("fit", "qwen2.5-32b-instruct", "--card", "P106-100")
    assert text.exit_code == 1
    assert "does not fit" in text.output
    assert "instead:" in text.output
    report = json.loads(run("fit", "qwen2.5-32b-instruct", "--card", "P106-100", "--json").output)
    assert report["verdict"] == "does_not_fit"
    assert {"engine", "dtype", "variant", "bill", "largest", "reason", "hints"} <= set(report)


def test_plan_is_written_and_can_be_read_again(tmp_path: Path) -> None:
    out = tmp_path / "plan.yaml"
    shown = run("plan", "--cards", "P104-100 8GB:2,RTX 3060 Ti:1", "--host-ram", "8GiB", "--want", "llama-3.1-8b-instruct:2",
                "--out", str(out))
    assert shown.exit_code == 0, shown.output
    plan = load_plan(out)
    assert len(plan.cards) == 3
    assert {p.model_id for p in plan.placements} == {"llama-3.1-8b-instruct"}


@pytest.mark.parametrize("arguments", [
    ["fit", "no-such-model", "--card", "RTX 3060 Ti"], ["fit", "llama-3.1-8b-instruct", "--card", "RTX 9999"], ["fit"],
    ["fit", "sdxl", "--card", "RTX 3060 Ti", "--size", "big"], ["fit", "llama-3.1-8b-instruct", "--card", "RTX 3060", "--context", "-1"],
    ["fit", "llama-3.1-8b-instruct", "--card", "RTX 3060 Ti", "--quant", "q99"], ["plan", "--want", "x:0"], ["plan", "--cards", "::"],
    ["plan", "--host-ram", "lots"], ["fit", "llama-3.1-8b-instruct", "--card", "RTX 3060 Ti", "--context", "131073"],
    ["plan", "--cards", "RTX 3060 Ti", "--out", "/nonexistent/plan.yaml"],
    ["serve", "--port", "99999"], ["serve", "--plan", "missing.yaml"], ["status", "--url", "ftp://x"],
    ["status", "--url", "http://127.0.0.1:1"], ["gateway"], ["gateway", "--backend", "nonsense"], ["models", "--card", "RTX 9999"],
    ["nonsense"],
])
def test_bad_input_ends_in_a_sentence(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run(*arguments)
    assert shown.exit_code in (1, 2)
    assert isinstance(shown.exception, SystemExit), shown.exception
    assert "Traceback" not in shown.output
    assert "Error" in shown.output


def test_a_hostile_plan_file_is_a_sentence(tmp_path: Path) -> None:
    for text in ("", "version: 2", "version: 1\nplacements: 3", "{", "a: &a [*a, *a]", "version: 1\nhost: {}\nsurprise: 1"):
        path = tmp_path / "plan.yaml"
        path.write_text(text)
        shown = run("serve", "--plan", str(path))
        assert shown.exit_code == 1, text
        assert "plan.yaml" in shown.output
        assert "Traceback" not in shown.output


def test_batch_answers_every_line(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    good = {"id": "a", "engine": "vllm", "model": "meta-llama/Llama-3.1-8B-Instruct", "quant": "bf16", "gpu_vram_gib": 23.6,
            "gpu_memory_utilization": 0.9, "max_model_len": 8192}
    cases.write_text(json.dumps(good) + "\n\nnot json\n[1]\n" + json.dumps({"id": "b"}) + "\n")
    lines = [json.loads(line) for line in run("fit", "--batch", str(cases)).output.splitlines()]
    assert [line["id"] for line in lines] == ["a", None, None, "b"]
    assert abs(lines[0]["weights_gib"] - 14.99) < 0.05
    assert all("error" in line for line in lines[1:])


@pytest.mark.parametrize(("text", "expected"), [("4", 4 * 2**30), ("4GiB", 4 * 2**30), ("3500 MiB", 3500 * 2**20), ("1.5g", 3 * 2**29)])
def test_sizes(text: str, expected: int) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize(("old", "new", "place"), [
    ("context_tokens: 2048", "context_tokens: 8192", "workload"), ("engine: vllm", "engine: llama.cpp", "choice"),
    ("dtype: bfloat16", "dtype: float32", "choice"),
])
def test_a_plan_edited_against_its_own_arithmetic_is_refused(tmp_path: Path, old: str, new: str, place: str) -> None:
    host = Host(16 * 2**30, 12 * 2**30, None, 4, ("avx2", "avx512f", "avx512_bf16", "fma", "f16c", "bmi2"), "x86_64")
    text = dump_plan(make_plan(host, (simulated_cpu_card(4 * 2**30),), load_catalogue()))
    assert old in text
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    load_plan(path)
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PlanFileError, match=f"{place}: is not what its report was computed for"):
        load_plan(path)


def test_a_batch_file_in_another_encoding_is_answered(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_bytes(b'{"id": "\xff"}\n')
    assert "error" in json.loads(run("fit", "--batch", str(cases)).output)
