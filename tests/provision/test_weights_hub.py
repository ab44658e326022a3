"""Fetching from the hub: whole, cut, resumed, refused. Every byte travels over a real socket from the stand-in."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from services.provision import weights
from services.provision.errors import AccessDeniedError, DamagedError, NotFoundError, ProvisionError, UnreachableError
from services.provision.transfer import Patience
from services.sizing.types import ModelSpec, Variant
from tests.fakes.hub import HubStandIn
from tests.provision.conftest import HURRIED, NO_PATIENCE, Watcher, model, safetensors_bytes, variant

BIG = safetensors_bytes(1 << 20)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": BIG,
    "README.md": b"words",
    "training.py": b"print()",
    "pytorch_model.bin": b"a pickle",
}
PATTERNS = ("*.json", "tokenizer.model", "model*.safetensors")
TINY = variant(repository="some/tiny", revision="main", files=PATTERNS)
MODEL = model(TINY)


def fetch(m: ModelSpec = MODEL, v: Variant = TINY, patience: Patience = HURRIED, watcher: Watcher | None = None) -> Path:
    return weights.ensure(m, v, watcher or Watcher(), patience=patience)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.name.endswith(".partial"))


def test_a_complete_download(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    watcher = Watcher()
    assert weights.located(MODEL, TINY) is None
    folder = fetch(watcher=watcher)
    assert folder == cache / "weights/tiny/v/files" == weights.located(MODEL, TINY)
    chosen = ("config.json", "tokenizer.json", "model.safetensors")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {n: FILES[n] for n in chosen}
    manifest = json.loads((cache / "weights/tiny/v/manifest.json").read_text())
    assert manifest["commit"] == hub.repositories["some/tiny"].commit
    assert {f["name"]: f["size_bytes"] for f in manifest["files"]}["model.safetensors"] == len(BIG)
    assert weights.verify(MODEL, TINY) == ()
    downloads = watcher.of("download")
    total = sum(len(FILES[n]) for n in chosen)
    assert {step.total for step in downloads} == {total}
    counts = [step.done for step in downloads if step.done is not None]
    assert counts == sorted(counts)
    assert counts[-1] == total


def test_the_second_call_asks_the_hub_nothing(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    first = fetch()
    hub.seen.clear()
    assert fetch() == first
    assert hub.seen == []


def test_small_files_come_first_and_large_ones_from_the_storage_host(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    fetch()
    names = [seen.path.rpartition("/")[2] for seen in hub.requests("/resolve/")]
    assert names == ["tokenizer.json", "config.json", "model.safetensors", "model.safetensors"]
    assert hub.seen[-1].storage


def test_cut_then_resumed_by_the_next_run_fetches_only_the_rest(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.cut_after_bytes = 300_000
    with pytest.raises(UnreachableError, match=r"model\.safetensors could not be fetched.*[1-9][0-9,]* of 1,0\d\d,\d\d\d bytes are kept"):
        fetch(patience=NO_PATIENCE)
    folder = cache / "weights/tiny/v/files"
    assert weights.located(MODEL, TINY) is None
    assert not (folder / "model.safetensors").exists()
    assert not (cache / "weights/tiny/v/manifest.json").exists()
    [partial] = leftovers(folder)
    kept = (folder / partial).stat().st_size
    assert 0 < kept <= 300_000
    hub.faults.cut_after_bytes = None
    hub.sent_bytes.clear()
    watcher = Watcher()
    assert (fetch(watcher=watcher) / "model.safetensors").read_bytes() == BIG
    assert hub.sent_bytes == {"model.safetensors": len(BIG) - kept}  # the small files were whole and stayed
    assert hub.seen[-1].range == f"bytes={kept}-"
    assert leftovers(folder) == []
    assert watcher.of("download")[-1].done == watcher.of("download")[-1].total


def test_a_cut_within_one_run_is_taken_up_where_it_broke(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.cut_after_bytes, hub.faults.cuts = 400_000, 2
    watcher = Watcher()
    assert (fetch(watcher=watcher) / "model.safetensors").read_bytes() == BIG
    assert len([s for s in hub.requests("model.safetensors") if s.storage and s.range]) == 2
    assert any("trying again" in step.text for step in watcher.steps)


def test_a_server_that_ignores_ranges_sends_it_all_again(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.cut_after_bytes, hub.faults.cuts, hub.faults.ignore_range = 400_000, 1, True
    assert (fetch() / "model.safetensors").read_bytes() == BIG


def test_a_silent_server_is_left_and_tried_again(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.silent_s = 0.5
    watcher = Watcher()
    with pytest.raises(UnreachableError, match="ReadTimeout"):
        fetch(patience=replace(HURRIED, attempts=2, read_s=0.1), watcher=watcher)
    assert len([step for step in watcher.steps if "trying again" in step.text]) == 1


def test_a_slow_server_is_waited_for(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.drip_s = 0.03  # 17 blocks: half a second
    watcher = Watcher()
    fetch(watcher=watcher)
    assert len({step.done for step in watcher.of("download")}) >= 4


def test_wrong_bytes_are_removed(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.flip_a_bit_in = ("model.safetensors",)
    with pytest.raises(DamagedError, match=r"another checksum than its source states.*removed"):
        fetch()
    folder = cache / "weights/tiny/v/files"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert weights.located(MODEL, TINY) is None


def test_wrong_bytes_of_a_small_file_are_found_by_its_git_id(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.flip_a_bit_in = ("config.json",)
    with pytest.raises(DamagedError, match=r"config\.json arrived with another checksum"):
        fetch()


def test_a_rotten_part_costs_one_more_download_not_the_whole_run(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.cut_after_bytes = 300_000
    with pytest.raises(UnreachableError):
        fetch(patience=NO_PATIENCE)
    hub.faults.cut_after_bytes = None
    folder = cache / "weights/tiny/v/files"
    partial = folder / leftovers(folder)[0]
    partial.write_bytes(b"?" * partial.stat().st_size)
    watcher = Watcher()
    assert (fetch(watcher=watcher) / "model.safetensors").read_bytes() == BIG
    assert watcher.of("download")[-1].done == watcher.of("download")[-1].total


def test_a_server_may_not_send_more_than_it_announced(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.more_than_announced = True
    with pytest.raises(DamagedError, match=r"more of .* than the"):
        fetch()
    assert leftovers(cache) == []


def test_gated_says_what_to_do_and_a_token_opens_it(
    hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("some/tiny", FILES, gated=True, token="hf_secret_of_the_test")
    with pytest.raises(AccessDeniedError, match=r"gated.*accept them.*hf auth login.*HF_TOKEN"):
        fetch()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AccessDeniedError, match="gated") as refused:
        fetch()
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_test")
    caplog.set_level(logging.DEBUG)
    hub.seen.clear()
    fetch()
    assert all(seen.authorized != seen.storage for seen in hub.seen), "the token goes to the hub and never to its storage host"
    assert "hf_secret" not in caplog.text
    assert not any(b"hf_secret" in path.read_bytes() for path in cache.rglob("*") if path.is_file())


def test_a_token_that_no_header_can_hold(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("some/tiny", FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_a\x07b\u20ac")
    with pytest.raises(AccessDeniedError, match="characters that no token has") as refused:
        fetch()
    assert "hf_a" not in str(refused.value)


def test_private_and_unknown_repositories_look_the_same(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES, token="hf_x")
    with pytest.raises(AccessDeniedError, match="no repository some/tiny to this machine: it is private or gone"):
        fetch()
    gone = variant(repository="some/gone", revision="main", files=PATTERNS)
    with pytest.raises(AccessDeniedError, match="some/gone"):
        fetch(model(gone), gone)


def test_unknown_revision(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    v = variant(repository="some/tiny", revision="f" * 40, files=PATTERNS)
    with pytest.raises(NotFoundError, match="no such revision"):
        fetch(model(v), v)


def test_a_busy_hub_is_tried_again_as_it_asks(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.statuses, hub.faults.retry_after_s = [429, 200, 503], 0
    watcher = Watcher()
    fetch(watcher=watcher)
    assert [s.text for s in watcher.steps if "the hub answered 429" in s.text]
    assert [s.text for s in watcher.steps if "the hub answered 503" in s.text]


def test_a_hub_that_wants_a_long_wait_is_not_waited_for(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.statuses, hub.faults.retry_after_s = [429], 3600
    with pytest.raises(UnreachableError, match="429"):
        fetch()


def test_no_hub_at_all(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"some/tiny is needed.*ConnectError.*Check the network"):
        fetch()


def test_offline_with_and_without_a_complete_cache(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("some/tiny", FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnreachableError, match="offline mode is on"):
        fetch()
    assert hub.seen == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = fetch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch() == folder


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1", "http://"])
def test_an_endpoint_that_is_no_address(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ProvisionError, match="HF_ENDPOINT"):
        fetch()


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"[]", b"{}", b'{"sha": "main", "siblings": []}', b'{"sha": 5, "siblings": {}}', b"[" * 100_000,
     b'{"sha": "%b", "siblings": [{"rfilename": "a.json"}]}' % (b"a" * 40),
     b'{"sha": "%b", "siblings": [{"rfilename": "a.json", "size": -1, "blobId": "%b"}]}' % (b"a" * 40, b"b" * 40),
     b'{"sha": "%b", "siblings": [{"rfilename": "a.json", "size": 1}]}' % (b"a" * 40)],
    ids=range(9),
)  # fmt: skip
def test_a_hub_that_answers_nonsense(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr("services.provision.hub.Hub._blocks", lambda self, response: iter([answer]))
    hub.add("some/tiny", FILES)
    with pytest.raises(ProvisionError, match="no usable file list"):
        fetch()


def test_two_versions_of_a_file_are_never_joined(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    hub.faults.cut_after_bytes = 300_000
    with pytest.raises(UnreachableError):
        fetch(patience=NO_PATIENCE)
    hub.faults.cut_after_bytes = None
    newer = {**FILES, "model.safetensors": safetensors_bytes(2 << 20)}
    hub.add("some/tiny", newer)
    folder = fetch()
    assert (folder / "model.safetensors").read_bytes() == newer["model.safetensors"]
    assert hub.seen[-1].range is None
    assert leftovers(folder) == []


def test_another_pin_in_the_catalogue_makes_the_old_files_not_count(hub: HubStandIn) -> None:
    old = hub.add("some/tiny", FILES)
    fetch()
    commit = old.commit
    new = hub.add("some/tiny", {"config.json": b'{"model_type": "other"}', "model.safetensors": BIG}, branches=("main", commit))
    pinned = variant(repository="some/tiny", revision=new.commit, files=PATTERNS)
    assert weights.located(model(pinned), pinned) is None
    hub.sent_bytes.clear()
    folder = fetch(model(pinned), pinned)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert hub.sent_bytes == {"config.json": 23}, "the large file is the same in both and is not fetched again"


def test_a_sibling_variant_shares_its_files(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", FILES)
    nf4 = variant(id="bnb-nf4", quant="bnb-nf4", repository="some/tiny", revision="main", files=PATTERNS)
    both = model(TINY, nf4)
    fetch(both)
    hub.sent_bytes.clear()
    folder = fetch(both, nf4)
    assert "model.safetensors" not in hub.sent_bytes
    assert (folder / "model.safetensors").samefile(cache / "weights/tiny/v/files/model.safetensors")
    assert weights.verify(both, nf4) == ()


def test_a_pinned_sha256_must_be_the_hubs(hub: HubStandIn) -> None:
    hub.add("some/tiny", FILES)
    v = variant(repository="some/tiny", revision="main", files=("model.safetensors",), sha256=("0" * 64,))
    with pytest.raises(DamagedError, match=r"another sha256 .* than the catalogue pins"):
        fetch(model(v), v)
    assert hub.requests("/resolve/") == []


def test_a_split_gguf_gives_its_first_part(hub: HubStandIn) -> None:
    hub.add("some/gguf", {f"m-0000{i}-of-00002.gguf": b"GGUF" + bytes([i]) * 100 for i in (2, 1)} | {"other.gguf": b"GGUF"})
    v = variant(format="gguf", quant="Q4_K_M", repository="some/gguf", revision="main", files=("m-*.gguf",))
    path = fetch(model(v), v)
    assert path.name == "m-00001-of-00002.gguf"
    assert len(list(path.parent.iterdir())) == 2


def test_a_diffusers_tree_keeps_its_folders(hub: HubStandIn) -> None:
    hub.add("some/sd", {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}', "unet/config.json": b"{}",
                        "unet/diffusion_pytorch_model.safetensors": BIG, "unet/diffusion_pytorch_model.bin": b"pickle"})  # fmt: skip
    v = variant(format="diffusers", quant="fp16", repository="some/sd", revision="main",
                files=("model_index.json", "unet/config.json", "unet/*.safetensors"))  # fmt: skip
    folder = fetch(model(v), v)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


def test_missing_weights_are_named(hub: HubStandIn) -> None:
    hub.add("some/tiny", {"config.json": b"{}"})
    with pytest.raises(NotFoundError, match=r"some/tiny has no 'model\*\.safetensors' at revision main"):
        fetch()


@pytest.mark.parametrize("name", ["../../etc", "one", "a/b/c", "https://host/a", "-a/b", "a/b?x=1", ""])
def test_a_repository_name_that_is_none(hub: HubStandIn, name: str) -> None:
    v = variant(repository=name, revision="main", files=PATTERNS)
    with pytest.raises(ProvisionError, match="write owner/name"):
        fetch(model(v), v)
    assert hub.seen == []
