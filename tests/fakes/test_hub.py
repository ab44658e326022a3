"""The stand-in is a hub: the unmodified huggingface_hub library lists, downloads and fails on it as on the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.hub import HubStandIn

FILES = {"config.json": b'{"model_type": "llama"}', "unet/model.safetensors": bytes(300_000), "README.md": b"words"}

WITH_THE_LIBRARY = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError
from huggingface_hub import hf_hub_download
api, cache, said = HfApi(), sys.argv[1], {}
info = api.model_info("some/tiny", files_metadata=True)
said["sha"] = info.sha
said["lfs"] = {s.rfilename: s.lfs.sha256 for s in info.siblings if s.lfs}
said["tree"] = {f.path: f.size for f in api.list_repo_tree("some/tiny", recursive=True)}
folder = Path(snapshot_download("some/tiny", revision=info.sha, cache_dir=cache))
said["files"] = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
for name, arguments in {"gated": ("some/gated", "config.json"), "missing": ("some/none", "x.json"), "entry": ("some/tiny", "none.json"),
                        "revision": ("some/tiny", "config.json")}.items():
    try:
        hf_hub_download(*arguments, revision="f" * 40 if name == "revision" else None, cache_dir=cache)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError) as error:
        said[name] = type(error).__name__
print(json.dumps(said))
"""


@pytest.mark.parametrize("token", [None, "hf_known"])
def test_the_library_accepts_it(tmp_path: Path, token: str | None) -> None:
    with HubStandIn().running() as hub:
        repository = hub.add("some/tiny", FILES)
        hub.add("some/gated", FILES, gated=True, token="hf_other")
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and not key.lower().endswith("_proxy")}
        environ = clean | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environ |= {"HF_TOKEN": token} if token else {}
        command = [sys.executable, "-c", WITH_THE_LIBRARY, str(tmp_path / "cache")]
        answer = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    said = json.loads(answer.stdout.splitlines()[-1])
    sizes = {name: len(content) for name, content in FILES.items()}
    assert said["sha"] == repository.commit
    assert list(said["lfs"]) == ["unet/model.safetensors"]
    assert said["tree"] == sizes
    assert said["files"] == sizes
    assert said["gated"] == "GatedRepoError"
    assert said["missing"] == "RepositoryNotFoundError"
    assert said["entry"] == "RemoteEntryNotFoundError"
    assert said["revision"] == "RevisionNotFoundError"
    assert all(not seen.authorized for seen in hub.seen if seen.storage)
    assert any(seen.authorized for seen in hub.seen) == (token is not None)
