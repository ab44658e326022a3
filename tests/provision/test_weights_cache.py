"""The cache's promises: nothing half looks whole, two processes fetch once, damage is found, a full disk is said in time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from services.provision import weights
from services.provision.cache import SPARE_BYTES, cache_root, folder_of, only_one
from services.provision.errors import NoSpaceError, NotFoundError, ProvisionError, UnsafeWeightsError
from services.provision.manifest import read_manifest
from services.provision.progress import ByteMeter, Progress, silent
from tests.fakes.hub import HubStandIn
from tests.provision.conftest import HURRIED, Watcher, model, safetensors_bytes, variant

BIG = safetensors_bytes(256 * 1024)
TINY = variant(repository="some/tiny", revision="main", files=("*.json", "model*.safetensors"))
MODEL = model(TINY)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def there(hub: HubStandIn) -> Path:
    """A complete variant; returns its files folder."""
    hub.add("some/tiny", {"config.json": b"{}", "model.safetensors": BIG})
    return weights.ensure(MODEL, TINY, silent, patience=HURRIED)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_root({}) == Path("/home/ada/.cache/rigserve")
    assert cache_root({"XDG_CACHE_HOME": "/x"}) == Path("/x/rigserve")
    assert cache_root({"XDG_CACHE_HOME": "relative"}) == Path("/home/ada/.cache/rigserve")
    assert cache_root({"RIGSERVE_CACHE": "~/w", "XDG_CACHE_HOME": "/x"}) == Path("/home/ada/w")
    monkeypatch.chdir(tmp_path)
    assert cache_root({"RIGSERVE_CACHE": "here"}) == tmp_path / "here"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", "a..b", "-rf", ".hidden", "a b", "a\n", "é", "x" * 97, "a\x00b"])
def test_ids_that_cannot_name_a_folder(cache: Path, name: str) -> None:
    with pytest.raises(UnsafeWeightsError, match="cannot name a folder"):
        folder_of(name, "v")
    with pytest.raises(UnsafeWeightsError, match="cannot name a folder"):
        weights.located(model(id="ok"), variant(id=name, repository="a/b", revision="main", files=("x.gguf",)))


def test_a_missing_manifest_means_not_there(there: Path) -> None:
    (there.parent / "manifest.json").unlink()
    assert weights.located(MODEL, TINY) is None
    assert weights.verify(MODEL, TINY) == (f"tiny (v) is not complete in {there.parent}",)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"version": 2}', b'{"version": 1}', b"[" * 50_000, b"\xff\xfe",
     b'{"version": 1, "model_id": "tiny", "variant_id": "v", "source": {}, "commit": null, "made_with": {}, "files": []}',
     b'{"version": 1, "model_id": "tiny", "variant_id": "v", "source": {}, "commit": null, "made_with": {},'
     b' "files": [{"name": "../../x", "size_bytes": 1, "sha256": "", "mtime_ns": 0}]}',
     b'{"version": 1, "model_id": "tiny", "variant_id": "v", "source": {}, "commit": null, "made_with": {},'
     b' "files": [{"name": "x", "size_bytes": "1", "sha256": "", "mtime_ns": 0}]}'],
    ids=range(11),
)  # fmt: skip
def test_a_manifest_that_is_not_ours_means_not_there(there: Path, content: bytes) -> None:
    (there.parent / "manifest.json").write_bytes(content)
    assert read_manifest(folder_of("tiny", "v")) is None
    assert weights.located(MODEL, TINY) is None


def test_a_shorter_or_missing_file_is_seen_at_once_and_fetched_alone(there: Path, hub: HubStandIn) -> None:
    file = there / "model.safetensors"
    os.truncate(file, 1000)
    assert weights.located(MODEL, TINY) is None
    hub.sent_bytes.clear()
    weights.ensure(MODEL, TINY, silent, patience=HURRIED)
    assert file.read_bytes() == BIG
    assert hub.sent_bytes == {"model.safetensors": len(BIG)}
    file.unlink()
    assert weights.located(MODEL, TINY) is None


def test_a_changed_byte_is_found_by_its_time_and_by_verify(there: Path, hub: HubStandIn) -> None:
    file = there / "model.safetensors"
    before = file.stat()
    content = bytearray(BIG)
    content[-1] ^= 1
    file.write_bytes(content)
    assert weights.located(MODEL, TINY) is None  # the time is another
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.located(MODEL, TINY) == there  # a quick look can't see it ...
    [sentence] = weights.verify(MODEL, TINY)  # ... verify can
    assert sentence.startswith("model.safetensors has sha256 ")
    os.utime(file)
    weights.ensure(MODEL, TINY, silent, patience=HURRIED)
    assert file.read_bytes() == BIG
    assert weights.verify(MODEL, TINY) == ()


def test_a_restored_backup_is_checked_and_taken_without_the_network(there: Path, hub: HubStandIn) -> None:
    os.utime(there / "model.safetensors", (1, 1))
    assert weights.located(MODEL, TINY) is None
    hub.seen.clear()
    watcher = Watcher()
    assert weights.ensure(MODEL, TINY, watcher, patience=HURRIED) == there
    assert hub.seen == []
    assert watcher.of("verify")
    assert weights.located(MODEL, TINY) == there


def test_a_link_is_no_file(there: Path, tmp_path: Path, hub: HubStandIn) -> None:
    outside = tmp_path / "outside"
    (there / "model.safetensors").rename(outside)
    (there / "model.safetensors").symlink_to(outside)
    assert weights.located(MODEL, TINY) is None
    assert "model.safetensors is missing" in weights.verify(MODEL, TINY)
    weights.ensure(MODEL, TINY, silent, patience=HURRIED)
    assert not (there / "model.safetensors").is_symlink()
    assert outside.read_bytes() == BIG


def test_a_linked_folder_cannot_lead_the_writes_elsewhere(hub: HubStandIn, cache: Path, tmp_path: Path) -> None:
    hub.add("some/sd", {"unet/model.safetensors": BIG})
    v = variant(format="diffusers", repository="some/sd", revision="main", files=("unet/model.safetensors",))
    place = folder_of("tiny", "v")
    place.files.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (place.files / "unet").symlink_to(tmp_path / "elsewhere")
    weights.ensure(model(v), v, silent, patience=HURRIED)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_full_disk_is_said_before_the_first_byte(hub: HubStandIn, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("some/tiny", {"config.json": b"{}", "model.safetensors": BIG})
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, SPARE_BYTES + len(BIG)))
    with pytest.raises(NoSpaceError, match=r"Fetching tiny from some/tiny needs .* bytes\) in .*weights/tiny/v, where .* is free") as e:
        weights.ensure(MODEL, TINY, silent, patience=HURRIED)
    assert (e.value.need_bytes, e.value.have_bytes) == (SPARE_BYTES + len(BIG) + 2, SPARE_BYTES + len(BIG))
    assert hub.requests("/resolve/") == []
    assert weights.located(MODEL, TINY) is None


def test_a_disk_that_fills_up_meanwhile(hub: HubStandIn, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("some/tiny", {"config.json": b"{}", "model.safetensors": BIG})

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("services.provision.transfer._append", full)
    with pytest.raises(NoSpaceError, match=r"tiny \(v\): the disk of .* is full"):
        weights.ensure(MODEL, TINY, silent, patience=HURRIED)
    assert weights.located(MODEL, TINY) is None


def test_a_folder_that_may_not_be_written_to(hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIGSERVE_CACHE", str(tmp_path / "file"))
    assert weights.located(MODEL, TINY) is None
    with pytest.raises(ProvisionError, match=r"could not be kept in .*file/weights/tiny/v: Not a directory.*RIGSERVE_CACHE"):
        weights.ensure(MODEL, TINY, silent, patience=HURRIED)


FETCH_IN_A_PROCESS = """
import sys
from services.provision import weights
from services.provision.progress import silent
from tests.provision.test_weights_cache import MODEL, TINY
print(weights.ensure(MODEL, TINY, lambda step: print(step.stage, flush=True)))
"""


def test_two_processes_at_once_fetch_once(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", {"config.json": b"{}", "model.safetensors": BIG})
    hub.faults.drip_s = 0.1
    root = Path(__file__).parents[2]
    both = [subprocess.Popen([sys.executable, "-c", FETCH_IN_A_PROCESS], cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert {lines[-1] for lines in outputs} == {str(cache / "weights/tiny/v/files")}
    assert hub.sent_bytes["model.safetensors"] == len(BIG)
    assert sorted("download" in lines for lines in outputs) == [False, True]


def test_a_killed_process_leaves_a_part_and_no_lock(hub: HubStandIn, cache: Path) -> None:
    hub.add("some/tiny", {"config.json": b"{}", "model.safetensors": BIG})
    hub.faults.drip_s = 0.3
    files = folder_of("tiny", "v").files
    with subprocess.Popen([sys.executable, "-c", FETCH_IN_A_PROCESS], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 60
        while not any(p.stat().st_size for p in files.glob(".model.safetensors.*.partial")):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.kill()
    assert weights.located(MODEL, TINY) is None
    assert not (files / "model.safetensors").exists()
    [partial] = files.glob(".model.safetensors.*.partial")
    kept_bytes = partial.stat().st_size
    hub.faults.drip_s = 0.0
    assert (weights.ensure(MODEL, TINY, silent, patience=HURRIED) / "model.safetensors").read_bytes() == BIG
    assert hub.seen[-1].range == f"bytes={kept_bytes}-"


def test_who_waits_for_the_lock_says_so(cache: Path) -> None:
    place, watcher, inside = folder_of("tiny", "v"), Watcher(), threading.Event()

    def hold() -> None:
        with only_one(place, silent):
            inside.set()
            time.sleep(0.2)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(5)
    with only_one(place, watcher, poll_s=0.05):
        assert not holder.is_alive() or watcher.steps
    holder.join()
    assert "another rigserve process is preparing" in watcher.of("wait")[0].text


def test_a_folder_of_this_project(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PROJECT", tmp_path)
    v = variant("repo", format="diffusers", quant="fp32", path="models/x")
    assert weights.located(model(v), v) is None
    with pytest.raises(NotFoundError, match="models/x of this project holds no weights"):
        weights.ensure(model(v), v)
    (tmp_path / "models/x/unet").mkdir(parents=True)
    file = tmp_path / "models/x/unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(BIG)
    assert weights.ensure(model(v), v) == tmp_path / "models/x" == weights.located(model(v), v)
    assert weights.verify(model(v), v) == ()
    os.truncate(file, len(BIG) - 1)
    with pytest.raises(ProvisionError, match="does not open"):
        weights.ensure(model(v), v)
    assert len(weights.verify(model(v), v)) == 1
    assert not cache.exists()


@pytest.mark.parametrize("path", ["../outside", "/etc", "models/../../x", ""])
def test_a_folder_outside_this_project(cache: Path, path: str) -> None:
    v = variant("repo", format="diffusers", path=path)
    with pytest.raises(UnsafeWeightsError, match="refused"):
        weights.ensure(model(v), v)


def test_the_manifest_says_what_was_asked_for(there: Path) -> None:
    manifest = json.loads((there.parent / "manifest.json").read_text())
    assert manifest["version"] == 1
    assert manifest["source"] == {
        "format": "safetensors", "kind": "hub", "repository": "some/tiny", "revision": "main", "files": ["*.json", "model*.safetensors"],
    }  # fmt: skip
    assert {f["name"] for f in manifest["files"]} == {"config.json", "model.safetensors"}
    assert all(len(f["sha256"]) == 64 for f in manifest["files"])


def test_the_meter_counts_and_does_not_flood() -> None:
    seen: list[Progress] = []
    now = [0.0]
    meter = ByteMeter(seen.append, "download", 10 * 2**20, clock=lambda: now[0])
    meter.say("fetching x")
    for _ in range(10):
        now[0] += 0.1
        meter.moved(2**20)
    assert [step.done for step in seen] == [0, 3 * 2**20, 6 * 2**20, 9 * 2**20]
    assert seen[1].text == "fetching x, 10.0 MiB/s"
    meter.found(-(2**20))
    meter.say("again")
    assert (seen[-1].done, seen[-1].total) == (9 * 2**20, 10 * 2**20)
