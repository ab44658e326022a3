"""What must never be fetched or loaded: pickles, code, names that climb, files that are not what they say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.provision import weights
from services.provision.errors import DamagedError, UnsafeWeightsError
from services.provision.names import inside, safe_file
from services.provision.safety import check_config, check_content, check_safetensors
from tests.fakes.hub import HubStandIn
from tests.provision.conftest import HURRIED, model, safetensors_bytes, variant

SMALL = safetensors_bytes(256)
HOSTILE = [
    "../escape.json", "/etc/passwd.json", "a/../../escape.json", "..", "a//b.json", "./a.json", "~/a.json", ".hidden.json", "a/.git/x.json",
    "C:\\x.json", "a\\..\\b.json", "a\x00.json", "a\n.json", "-rf.json", "é.json", "x" * 300 + ".json", "/".join("a" * 20) + "/x.json",
    "con./x.json", "a /b.json", "",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeWeightsError, match="is refused"):
        safe_file(name)


@pytest.mark.parametrize("name", ["model.safetensors", "unet/model.fp16.safetensors", "a+b=c@d e.json", "tokenizer_2/merges.txt"])
def test_ordinary_names_pass(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@given(st.text(max_size=60))
def test_whatever_passes_stays_inside(name: str) -> None:
    try:
        path = inside(Path("/nowhere/files"), name)
    except UnsafeWeightsError:
        return
    assert path.is_relative_to("/nowhere/files")
    assert path != Path("/nowhere/files")
    assert ".." not in path.parts


def test_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/way").symlink_to(tmp_path)
    with pytest.raises(UnsafeWeightsError, match="leads out of its folder through a link"):
        inside(tmp_path / "files", "way/x.json")


@pytest.mark.parametrize("name", [n for n in HOSTILE if n.endswith(".json")], ids=str.__len__)
def test_a_hub_that_lists_hostile_names(hub: HubStandIn, cache: Path, name: str) -> None:
    hub.add("some/evil", {"model.safetensors": SMALL, name: b"{}"})
    v = variant(repository="some/evil", revision="main", files=("*.json", "model*.safetensors"))
    with pytest.raises(UnsafeWeightsError, match="is refused"):
        weights.ensure(model(v), v, patience=HURRIED)
    assert hub.requests("/resolve/") == []
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["lock"]


def test_hostile_names_of_types_that_nobody_wants_do_no_harm(hub: HubStandIn) -> None:
    hub.add("some/odd", {"model.safetensors": SMALL, "../x.py": b"", "/abs.bin": b"", ".gitattributes": b""})
    v = variant(repository="some/odd", revision="main", files=("*",))
    folder = weights.ensure(model(v), v, patience=HURRIED)
    assert [p.name for p in folder.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("offered", ["pytorch_model.bin", "model.pt", "model.PTH", "v1-5.ckpt", "model.pickle"])
def test_a_repository_of_pickles_only(hub: HubStandIn, offered: str) -> None:
    hub.add("some/old", {"config.json": b"{}", offered: b"\x80\x04"})
    v = variant(repository="some/old", revision="main", files=("*.json", "model*.safetensors"))
    with pytest.raises(UnsafeWeightsError, match=r"its weights are pickles, which can run code"):
        weights.ensure(model(v), v, patience=HURRIED)
    assert hub.requests("/resolve/") == []


@pytest.mark.parametrize(("name", "sentence"), [("pytorch_model.bin", "can run code"), ("modeling_x.py", r"only \.safetensors, \.gguf")])
def test_a_catalogue_that_names_what_is_refused(hub: HubStandIn, name: str, sentence: str) -> None:
    hub.add("some/old", {"config.json": b"{}", "model.safetensors": SMALL, name: b"x"})
    v = variant(repository="some/old", revision="main", files=("model.safetensors", name))
    with pytest.raises(UnsafeWeightsError, match=sentence):
        weights.ensure(model(v), v, patience=HURRIED)


def test_a_config_that_names_code_is_refused_before_the_weights(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/custom", {"config.json": b'{"auto_map": {"AutoModel": "modeling_x.X"}}', "model.safetensors": SMALL})
    v = variant(repository="some/custom", revision="main", files=("*.json", "model*.safetensors"))
    with pytest.raises(UnsafeWeightsError, match="names Python code of its repository"):
        weights.ensure(model(v), v, patience=HURRIED)
    assert hub.requests("model.safetensors") == []
    assert list((cache / "weights/tiny/v/files").iterdir()) == []


def test_an_index_without_all_its_shards(hub: HubStandIn) -> None:
    index = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode()
    hub.add("some/half", {"model.safetensors.index.json": index, "model-00001-of-00002.safetensors": SMALL})
    v = variant(repository="some/half", revision="main", files=("*.json", "model*.safetensors"))
    with pytest.raises(DamagedError, match=r"lists 1 weight files that this variant does not have"):
        weights.ensure(model(v), v, patience=HURRIED)


def test_safetensors_from_the_hub_must_open(hub: HubStandIn) -> None:
    hub.add("some/broken", {"model.safetensors": b"not a checkpoint"})
    v = variant(repository="some/broken", revision="main", files=("model.safetensors",))
    with pytest.raises(DamagedError, match="does not open"):
        weights.ensure(model(v), v, patience=HURRIED)
    assert weights.located(model(v), v) is None


def header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [b"", b"short", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 2) + b"[]", header({"w": {}}), header({"w": None}),
     header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),  # the four bytes are missing
     header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"1234", struct.pack("<Q", 100_000) + b"[" * 100_000],
    ids=range(9),
)  # fmt: skip
def test_safetensors_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DamagedError):
        check_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [("config.json", b'{"a": 1}', None), ("config.json", b"", DamagedError), ("config.json", b"[1]", DamagedError),
     ("config.json", b"[" * 100_000, DamagedError), ("tokenizer_config.json", b'{"auto_map": {}}', UnsafeWeightsError),
     ("config.json", b" " * (4 * 2**20 + 1), UnsafeWeightsError), ("unet/config.json", b'{"auto_map": 1}', UnsafeWeightsError),
     ("model_index.json", b'{"_class_name": "X"}', None), ("model_index.json", b'{"_class_name": ["mine", "X"]}', UnsafeWeightsError),
     ("model.gguf", b"GGUF\x03", None), ("model.gguf", b"GGML", DamagedError), ("tokenizer.json", b"anything", None)],
    ids=range(12),
)  # fmt: skip
def test_contents(tmp_path: Path, name: str, content: bytes, error: type[Exception] | None) -> None:
    path = tmp_path / name.rpartition("/")[2]
    path.write_bytes(content)
    if error is None:
        check_content(path, name)
        return
    with pytest.raises(error):
        check_content(path, name)


def test_the_reason_names_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {}}')
    with pytest.raises(UnsafeWeightsError, match="choose a repository whose architecture the engine itself knows"):
        check_config(tmp_path / "config.json")
