"""A docker engine for these tests: found when it is ours, else started in a temporary folder and stopped afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from services.deploy.images import Image, load_images

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "docker-engine"
BASES = Path(__file__).with_name("stand-in-bases")
# Where `.ci/docker-engine start` is told to put an engine that stays between runs; RIGSERVE_ENGINE names another folder.
KEPT = Path("/var/lib/rigserve-docker")
START_S, BUILD_S = 300.0, 1800.0


class NoEngineError(Exception):
    """No engine can be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """`host` is its DOCKER_HOST."""

    host: str

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host}

    def docker(
        self, *arguments: str, check: bool = True, timeout_s: float = 120.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One docker command. A failure is an AssertionError with what docker said, unless `check` is off."""
        done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s,
                              env=self.environment)  # fmt: skip
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def said(self, *arguments: str, timeout_s: float = 120.0) -> str:
        return self.docker(*arguments, timeout_s=timeout_s).stdout.strip()

    def size_bytes(self, reference: str) -> int:
        return int(self.said("image", "inspect", "-f", "{{.Size}}", reference))


@dataclass(slots=True)
class Images:
    """Builds the images of the table when they are asked for, once a session; BuildKit's own cache does the rest between sessions."""

    engine: Engine
    version: str = field(default_factory=lambda: version("rigserve"))
    built: set[str] = field(default_factory=set)

    def reference(self, environment: str) -> str:
        """The name of the built image of an engine environment, or of the gateway."""
        image = load_images()[environment]
        reference = image.reference(self.version)
        if reference not in self.built:
            self.build(image, reference, dict(image.build_args(self.version)))
            self.built.add(reference)
        return reference

    def build(self, image: Image, reference: str, arguments: dict[str, str], *more: str) -> None:
        given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        wheels = os.environ.get("PIP_FIND_LINKS", "")  # the folder that pip has been told about here
        if Path(wheels).is_dir() and wheels:
            given += ["--build-context", f"wheels={wheels}"]
        self.engine.docker("build", "-q", "-f", str(ROOT / image.dockerfile), "-t", reference, *given, *more, str(ROOT), timeout_s=BUILD_S)


@contextmanager
def engine() -> Iterator[Engine]:
    """1. RIGSERVE_DOCKER_HOST: that engine, with whatever base images it has. 2. The engine kept in RIGSERVE_ENGINE or KEPT, where it runs.
    3. RIGSERVE_REQUIRE_DOCKER: a new one in a temporary folder, stopped and removed at the end (its packages are installed where missing).
    4. The engine that `docker` reaches by itself: nothing is installed, tagged over or pulled on somebody's own machine.
    For 2 and 3 the bases are our stand-ins. Raises NoEngineError.
    """
    if host := os.environ.get("RIGSERVE_DOCKER_HOST"):  # 1
        yield _answering(Engine(host))
        return
    kept = Path(os.environ.get("RIGSERVE_ENGINE") or KEPT)
    if _script("status", kept).returncode == 0:  # 2
        yield _with_bases(Engine(_host_of(kept)))
        return
    if not os.environ.get("RIGSERVE_REQUIRE_DOCKER"):  # 4
        yield _of_this_machine()
        return
    folder = Path(tempfile.mkdtemp(prefix="rigserve-docker-"))  # 3; short, because a socket's path may have 103 characters
    try:
        started = _script("start", folder)
        if started.returncode != 0:
            raise NoEngineError(f".ci/docker-engine start: {(started.stderr or started.stdout).strip()[-800:]}")
        yield _with_bases(Engine(_host_of(folder)))
    finally:
        stopped = _script("stop", folder, "--purge")
        shutil.rmtree(folder, ignore_errors=True)
        assert stopped.returncode == 0, stopped.stderr


def _script(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), command, str(folder), *more], capture_output=True, text=True, check=False, timeout=START_S)


def _host_of(folder: Path) -> str:
    return f"unix://{(folder / 'socket').read_text(encoding='utf8').strip()}"


def _of_this_machine() -> Engine:
    """The user's own engine, if it has the base image already."""
    if shutil.which("docker") is None:
        raise NoEngineError("there is no docker command; RIGSERVE_REQUIRE_DOCKER=1 installs an engine (Debian, as root)")
    host = os.environ.get("DOCKER_HOST") or subprocess.run(
        ["docker", "context", "inspect", "-f", "{{.Endpoints.docker.Host}}"], capture_output=True, text=True, check=False
    ).stdout.strip()
    engine = _answering(Engine(host or "unix:///var/run/docker.sock"))
    if engine.docker("image", "inspect", "python:3.11-slim", check=False).returncode != 0:
        raise NoEngineError("this machine's engine lacks the base image: docker pull python:3.11-slim")
    return engine


def _answering(engine: Engine) -> Engine:
    done = engine.docker("version", check=False)
    if done.returncode != 0:
        raise NoEngineError(f"{engine.host}: {done.stderr.strip()}")
    return engine


def _with_bases(engine: Engine) -> Engine:
    done = subprocess.run([str(BASES)], capture_output=True, text=True, check=False, timeout=START_S, env=engine.environment)
    if done.returncode != 0:
        raise NoEngineError(f"the stand-in base images could not be made: {done.stderr.strip()[-800:]}")
    return engine
