"""`rigserve fit`: what it takes, what it says it did not use, folders and files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import close_session

from services.cli.main import main
from services.sizing.catalogue import MODELS_FOLDER
from services.sizing.checkpoint_config import geometry_of_config
from services.sizing.params import tensors_of
from tests.fakes.hub import HubStandIn
from tests.sizing.checkpoint_bytes import TINY_CONFIG, entry, safetensors, tiny_gguf

TI = ("--card", "RTX 3060 Ti", "--host-ram", "16")
PASCAL = ("--card", "P106-100", "--host-ram", "8")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["fit", *arguments])


def report(*arguments: str) -> dict[str, object]:
    whole = json.loads(run(*arguments, "--json").output)
    assert isinstance(whole, dict)
    return whole


def weights() -> bytes:
    header, offset = {}, 0
    for shape in tensors_of(geometry_of_config(TINY_CONFIG)):
        header[f"model.{shape.name}"] = entry("BF16", shape.shape, offset, offset + 2 * shape.elements)
        offset += 2 * shape.elements
    return safetensors(header, bytes(offset))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(TINY_CONFIG))
    (tmp_path / "model.safetensors").write_bytes(weights())
    return tmp_path


@pytest.mark.parametrize(("arguments", "code"), [
    (("llama-3.1-8b-instruct", *TI), 0), (("qwen2.5-32b-instruct", *TI), 1), (("qwen2.5-32b-instruct", *TI, "--json"), 1),
    (("no-such-model", *TI), 2), (("", *TI), 2), (("sdxl", "--card", "RTX 9999"), 2), (("sdxl", "--card", ""), 2),
    (("sdxl", *TI[:2], "--host-ram", ""), 2), (("bge-m3", *TI, "--context", "100000"), 2), (("./nowhere", *TI), 2),
    (("sdxl", "--card", "RTX 3080"), 0), (("hf:../..", *TI), 2),
])
def test_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    shown = run(*arguments)
    assert shown.exit_code == code, shown.output
    assert isinstance(shown.exception, SystemExit) or shown.exception is None


def test_options_of_another_kind_of_model_are_said_to_be_unused() -> None:
    assert report("sd-1.5", *TI, "--context", "4096", "--sequences", "2")["notes"][0] == (  # type: ignore[index]
        "--context and --sequences not used: sd-1.5 makes images"
    )
    assert "note: --size not used: llama-3.1-8b-instruct makes text" in run("llama-3.1-8b-instruct", *TI, "--size", "512x512").output
    assert report("sd-1.5", *TI)["notes"] == ["cards as described, not detected"]


def test_a_card_without_its_size_is_the_smallest_of_its_name_and_says_so_first() -> None:
    assert report("sdxl", "--card", "RTX 3060", "--host-ram", "16GiB")["notes"][0].startswith(
        "RTX 3060 was sold with 8 and 12 GB; taken as 8 GB, write RTX 3060 12GB"
    )
    assert "taken as 8 GB" in run("sdxl", "--card", "RTX 3060", "--host-ram", "16GiB").output


def test_an_image_size_is_one_that_the_pipeline_can_draw() -> None:
    odd = report("sdxl", *TI, "--size", "1001x900")
    assert odd["workload"] == {"width_px": 1008, "height_px": 904, "batch": 1, "steps": None, "kind": "image"}
    assert "sized as 1008x904 px" in str(odd["notes"])
    assert report("sdxl", *TI, "--size", "1024×1024")["notes"] == ["cards as described, not detected"]


@pytest.mark.parametrize("size", ["1024", "", "x", "１０２４x１０２４", "1_024x1024", "-8x8", "0x0", "9999999x8", "70000x512", "4x4"])
def test_what_is_no_size_is_refused(size: str) -> None:
    shown = run("sdxl", *TI, "--size", size)
    assert shown.exit_code == 2
    assert "--size" in shown.output


def test_a_quantization_by_the_beginning_of_its_name() -> None:
    assert report("llama-3.1-8b-instruct", *TI, "--quant", "awq")["quant"] == "awq-int4-g128"
    shown = run("llama-3.1-8b-instruct", *TI, "--quant", "q")
    assert shown.exit_code == 2
    assert "Q4_K_M or Q5_K_M" in shown.output
    assert run("llama-3.1-8b-instruct", *TI, "--quant", "").exit_code == 2


@pytest.mark.parametrize("asked", [("--quant", "awq"), ("--engine", "vllm"), ("--engine", "diffusers")])
def test_a_form_that_cannot_run_brings_the_same_model_in_one_that_can(asked: tuple[str, str]) -> None:
    found = report("llama-3.1-8b-instruct", *PASCAL, *asked)
    assert found["verdict"] == "does_not_fit"
    hints = found["hints"]
    assert isinstance(hints, list)
    assert hints[0]["model_id"] == "llama-3.1-8b-instruct"
    assert "llama.cpp" in hints[0]["text"]
    assert str(found["reason"]).count("run by vllm") <= 1, "one sentence a format, not one a variant"


def test_the_text_says_what_is_predicted_and_what_the_host_needs() -> None:
    shown = run("llama-3.1-8b-instruct", "--card", "P104-100 8GB@gen1x1:6", "--host-ram", "8").output
    assert shown.count("need ") == 1, "six equal cards are one report"
    assert "(each of 6 cards)" in shown
    assert "predicted: ~" in shown
    for unit in ("tok/s decode", "tok/s prefill", "s to load", "RAM while loading", "of disk"):
        assert unit in shown
    assert "unknown" not in shown


def test_described_cards_do_not_depend_on_what_is_free_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from services.cli import rig

    found = rig.detect()
    answers = []
    for free in (64 * 2**20, 2**40):
        busy = replace(found, host=replace(found.host, ram_bytes=16 * 2**30, ram_available_bytes=free))
        monkeypatch.setattr(rig, "detect", lambda busy=busy: busy)
        answers.append(run("llama-3.1-8b-instruct", *TI[:2], "--json").output)
    assert answers[0] == answers[1]
    assert "--host-ram says another" in answers[0]


def test_a_folder_is_sized_from_its_headers(tiny: Path) -> None:
    found = report(str(tiny), *TI)
    assert found["variant"] == "as-stored"
    assert found["quant"] == "bf16"
    assert found["host"]["disk_bytes"] == (tiny / "model.safetensors").stat().st_size  # type: ignore[index]
    pascal = report(str(tiny), *PASCAL)
    assert (pascal["engine"], pascal["quant"], pascal["verdict"]) == ("llama.cpp", "Q8_0", "fits")
    assert "is not in the files" in str(pascal["notes"])


def test_a_gguf_file_and_a_pipeline_are_sized(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_gguf())
    assert report(str(tmp_path / "m.gguf"), *PASCAL)["engine"] == "llama.cpp"
    image = report(str(MODELS_FOLDER / "digits-sd"), *TI)
    known = report("digits-sd", *TI)
    assert image["bill"] == known["bill"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "m.gguf", "m.safetensors", "config.json"])
def test_hostile_files_are_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    for where in (tmp_path, tmp_path / name):
        shown = run(f"{where}", *TI)
        assert shown.exit_code == 2, shown.output
        assert shown.output.startswith("Error: ")
        assert "Traceback" not in shown.output


def test_a_repository_is_sized_from_its_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    stand_in = HubStandIn()
    stand_in.add("some/tiny", {"config.json": json.dumps(TINY_CONFIG).encode(), "model.safetensors": weights()})
    with stand_in.running():
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        assert report("hf:some/tiny", *TI)["variant"] == "as-stored"
        missing = run("hf:some/other", *TI)
    close_session()
    assert missing.exit_code == 1
    assert missing.output.startswith("Error: ")


def test_batch_stands_alone_and_outlives_any_line(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text("[" * 100_000 + '\n{"id": "sep\u2028arator"}\n' + '{"id": 1' + "0" * 6000 + "}\n")
    lines = [json.loads(line) for line in run("--batch", str(cases)).output.split("\n") if line]
    assert [line["id"] for line in lines] == [None, "sep\u2028arator", None]
    assert all("error" in line for line in lines)
    for extra in (["sdxl"], ["--card", "RTX 3060 Ti"], ["--context", "5"]):
        assert run("--batch", str(cases), *extra).exit_code == 2
