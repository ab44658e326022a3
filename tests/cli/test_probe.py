"""`rigserve probe` with a stand-in for the engine's python: what is run, what is believed, what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli import probe as probing
from services.cli.main import main
from services.cli.probe import ProbeError, parse_figures
from services.cli.profiles import boot_id, profiles_file
from services.cli.rig import rig_of_this_machine
from services.hardware import probe_cuda
from services.hardware.detect import detect
from tests.hardware.player import NvmlPlayer, build_tree

STOCK = {"name": "NVIDIA CMP 50HX", "total_bytes": 10**10, "fp32_fma_flops": 0.427e12, "fp32_mul_add_flops": 5.9e12, "hfma2_flops": 22e12,
         "dp4a_ops_per_s": 1.69e12, "hgemm_flops": None, "bandwidth_bytes_per_s": 5.05e11, "host_to_card_bytes_per_s": 0.2e9}
FREE = {**STOCK, "fp32_fma_flops": 13.5e12, "dp4a_ops_per_s": 48e12, "hgemm_flops": 87e12}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A captured rig with an RTX 3060 Ti and a CMP 50HX. Returns the stand-in's answer file: it prints what is in there."""
    root = build_tree(tmp_path, "celeron_proc")

    def look() -> object:
        return detect(proc=root / "proc", sys=root / "sys", nvml=NvmlPlayer("mixed_rig"))

    for room in ("rig", "probe"):
        monkeypatch.setattr(f"services.cli.{room}.detect", look)
    monkeypatch.setattr("services.cli.detect.detect_hardware", look)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    answer, python = tmp_path / "answer", tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -I ] && [ -f "$2" ] || exit 9\necho "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/seen\ncat {answer}\n')
    python.chmod(0o755)
    monkeypatch.setattr(probing.environments, "ensure", lambda name, sink: python)
    return answer


def cmp_id() -> str:
    return next(card.id for card in rig_of_this_machine().cards if "CMP" in card.name)


def test_a_stock_card_is_measured_said_and_kept(rig: Path, tmp_path: Path) -> None:
    rig.write_text("a warning\n" + json.dumps(STOCK) + "\n")
    card = cmp_id()
    shown = run("probe", "--card", card, "--save")
    assert shown.exit_code == 0, shown.output
    assert "profile: stock" in shown.output
    assert "0.07 of mul+add" in shown.output
    assert "half matrices      unknown" in shown.output
    assert (tmp_path / "seen").read_text().split() == [card], "the child sees that card only, by its UUID"
    assert json.loads(profiles_file().read_text())[card]["profile"] == "stock"
    assert next(c for c in rig_of_this_machine().cards if c.id == card).profile == "stock"


def test_an_unlocked_card_plans_as_one_until_the_next_boot(rig: Path) -> None:
    rig.write_text(json.dumps(FREE))
    card = cmp_id()
    found = json.loads(run("probe", "--card", card, "--save", "--json").output)
    assert found[0]["profile"]["profile"] == "unlocked"
    assert found[0]["figures"]["hgemm_flops"] == 87e12
    before = json.loads(run("detect", "--json").output)
    assert [c["profile"] for c in before["cards"] if c["id"] == card] == ["unlocked"]
    assert "CMP 50HX (unlocked, as measured)" in run("detect").output
    described = rig_of_this_machine(f"CMP 50HX#{card}").cards[0]
    assert described.profile == "unlocked", "a described card with that UUID is that card"
    kept = json.loads(profiles_file().read_text())
    kept[card]["boot_id"] = "another"
    profiles_file().write_text(json.dumps(kept))
    later = rig_of_this_machine()
    assert next(c for c in later.cards if c.id == card).profile is None
    assert any("earlier boot" in note for note in later.notes)


def test_without_save_nothing_is_kept(rig: Path) -> None:
    rig.write_text(json.dumps(STOCK))
    assert run("probe").exit_code == 0
    assert not profiles_file().exists()


@pytest.mark.parametrize("text", [
    "", "[]", "{", '{"name": 3}', '{"name": "x", "fp32_fma_flops": -1}', '{"name": "x", "fp32_fma_flops": NaN}',
    '{"name": "x", "hgemm_flops": true}', '{"name": "x", "surprise": 1}',
])
def test_nonsense_is_no_measurement(text: str) -> None:
    with pytest.raises(ProbeError):
        parse_figures(text)


def test_a_child_that_prints_nonsense_is_a_sentence(rig: Path) -> None:
    rig.write_text("surprise")
    shown = run("probe")
    assert shown.exit_code == 1
    assert "not measured: " in shown.output
    assert "Traceback" not in shown.output


def test_a_child_that_fails_or_hangs_is_a_sentence(rig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = rig.parent / "python"
    python.write_text("#!/bin/sh\necho 'torch sees no CUDA card' >&2\nexit 4\n")
    assert "code 4: torch sees no CUDA card" in run("probe").output
    python.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(probing, "TIMEOUT_S", 0.2)
    assert "was stopped" in run("probe", "--card", cmp_id()).output


def test_an_unknown_card_and_a_machine_without_one(rig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run("probe", "--card", "GPU-none")
    assert shown.exit_code == 1
    assert cmp_id() in shown.output
    monkeypatch.undo()
    shown = run("probe")
    assert shown.exit_code == 1
    assert "No NVIDIA card answers" in shown.output


@pytest.mark.parametrize("text", ["{", "[1]", '{"GPU-1": 3}', "\x00\xff"])
def test_a_broken_file_of_profiles_is_said_and_not_used(text: str, rig: Path) -> None:
    profiles_file().parent.mkdir(parents=True)
    profiles_file().write_text(text)
    found = rig_of_this_machine()
    assert all(card.profile is None for card in found.cards)
    assert text == '{"GPU-1": 3}' or any("not used" in note for note in found.notes)


def test_this_boot_has_an_id() -> None:
    assert boot_id() == boot_id() is not None


def test_the_script_alone_says_what_is_missing() -> None:
    """The light environment has no torch; the script needs nothing else."""
    done = subprocess.run([sys.executable, "-I", probe_cuda.__file__], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == probe_cuda.NO_TORCH
    assert "torch is not installed" in done.stderr


def test_each_kernel_repeats_its_one_instruction() -> None:
    for one in probe_cuda.INSTRUCTIONS:
        source = probe_cuda.source_of(one)
        assert source.count(one.ptx) == probe_cuda.UNROLLED * probe_cuda.LANES
        assert source.count("{") == source.count("}")
    assert probe_cuda.executions(10, 2) == 655_360


@pytest.mark.gpu
def test_a_real_card_is_near_its_table() -> None:
    """Not run where there is no CUDA card: on one that is sold whole, FMA must beat mul+add and stay near the table."""
    shown = run("probe", "--json")
    assert shown.exit_code == 0, shown.output
    for one in json.loads(shown.output):
        figures = one["figures"]
        assert figures["fp32_fma_flops"] > 0
        assert figures["bandwidth_bytes_per_s"] > 1e9
