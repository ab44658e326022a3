"""The Dockerfiles, the build context and the engine script by the rules: hadolint's, and ours that it has none for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.deploy.images import load_images

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
SERVICES = {ROOT / image.dockerfile for image in load_images().values()}  # what stays up; the rest are tools of a profile
SERVED = ("HEALTHCHECK", "STOPSIGNAL SIGTERM", "org.opencontainers.image.version", "org.opencontainers.image.licenses")
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))
SCRIPTS = [ROOT / ".ci" / "docker-engine", ROOT / "tests" / "compose" / "stand-in-bases"]


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    assert HADOLINT, "hadolint is in requirements/dev.txt: make install"
    return subprocess.run([HADOLINT, "-"], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    said = hadolint(path.read_text(encoding="utf8"))
    assert said.returncode == 0, said.stdout


def test_hadolint_would_find_something() -> None:
    said = hadolint("FROM python:latest\nRUN cd /x && apt-get install curl\nMAINTAINER me\n")
    assert said.returncode == 1
    assert {"DL3007", "DL3003", "DL3008", "DL4000"} <= set(re.findall(r"DL\d{4}", said.stdout))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)
def test_our_own_rules(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    final = text.split("\nFROM ")[-1]
    assert not re.search(r"^\s*#\s*syntax\s*=", text, re.MULTILINE), "it would be pulled from a registry"
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert final.index("\nUSER ") > max(final.rfind("\nRUN "), final.rfind("\nCOPY ")), "nothing in the image belongs to its user"
    for wanted in ("ENTRYPOINT [", *(SERVED if path in SERVICES else ())):
        assert wanted in final, wanted
    assert "--chown" not in text
    assert not re.search(r"(?i)(api_?key|token|password|secret)\s*=", text), "no secret belongs in a layer"
    assert not re.search(r"https?://", text), "no host is named"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse_and_name_no_host(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False).returncode == 0
    text = path.read_text(encoding="utf8")
    assert not re.search(r"https?://", text)
    assert "set -euo pipefail" in text


def test_the_build_context_lets_in_what_is_named_only() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:].split("/")[0] for line in lines if line.startswith("!")}
    assert let_in == {"docker", "models", "pyproject.toml", "README.md", "requirements", "services"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [((), 2, ".ci/docker-engine start"), (("dance",), 2, ".ci/docker-engine start"), (("start",), 1, "start needs the engine's folder")],
)
def test_the_engine_script_says_what_it_can_do(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = subprocess.run([str(SCRIPTS[0]), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr


def test_an_engine_that_was_never_started_is_not_running(tmp_path: Path) -> None:
    status = subprocess.run([str(SCRIPTS[0]), "status", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (status.returncode, status.stdout) == (3, f"not running: no engine of {tmp_path} answers\n")
    stopped = subprocess.run([str(SCRIPTS[0]), "stop", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert stopped.returncode == 0
    assert "does not exist" in stopped.stdout
