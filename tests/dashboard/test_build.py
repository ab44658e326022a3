"""The committed files are those that the sources make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SOURCES, BUILT = PROJECT / "dashboard", PROJECT / "services" / "gateway" / "dashboard"
SETTINGS = ("build.mjs", "package.json", "package-lock.json", "tsconfig.json")
MOST_BYTES = 100_000


def sums(paths: list[Path], root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_build_is_of_these_sources() -> None:
    record = json.loads((BUILT / "build.json").read_text())
    sources = [*(SOURCES / name for name in SETTINGS), *(path for path in (SOURCES / "src").rglob("*") if path.is_file())]
    assert record["sources"] == sums(sources, SOURCES), "`make dashboard` was not run after the last change"
    assert record["built"] == sums([path for path in BUILT.iterdir() if path.name != "build.json"], BUILT)


@pytest.mark.browser
def test_the_sources_make_these_bytes(tmp_path: Path) -> None:
    if shutil.which("node") is None or not (SOURCES / "node_modules" / ".installed").exists():
        pytest.skip("no Node, or no dashboard/node_modules: `make browser` installs them where npm is")
    for argv in (["npm", "run", "-s", "check"], ["node", "build.mjs", str(tmp_path)]):
        done = subprocess.run(argv, cwd=SOURCES, capture_output=True, text=True, timeout=120, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
    for path in BUILT.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_versions_are_pinned_and_no_address_is_recorded() -> None:
    package = json.loads((SOURCES / "package.json").read_text())
    for version in (package["dependencies"] | package["devDependencies"]).values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    lock = (SOURCES / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert all("integrity" in entry for name, entry in json.loads(lock)["packages"].items() if name)


def test_the_page_is_small_and_holds_nothing_inline() -> None:
    page = (BUILT / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*src=)|<style|\son\w+=|style=", page) == []
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {"/dashboard/icon.svg", "/dashboard/app.css", "/dashboard/app.js"}
    for path in BUILT.iterdir():
        assert path.stat().st_size < MOST_BYTES, path.name
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z0-9.]+", path.read_text()))
        assert addresses <= {"http://www.w3.org"}, f"{path.name} names another host: {addresses}"


def test_no_source_makes_markup_of_a_string() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write|\beval\(|new Function"
    for path in (SOURCES / "src").rglob("*.ts*"):
        found = re.findall(forbidden, path.read_text())
        assert found == [], f"{path.name}: {found}"
