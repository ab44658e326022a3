"""The engine environments: one Python virtual environment per engine build under `.venvs/`, made when first needed.

A folder under `.venvs/` counts as an environment only with a stamp, which is written last and names the hash of the lock file:
a cut install is made again, a changed lock is installed anew, a good one costs a few milliseconds.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.provision.environment_table import ENVIRONMENTS, Environment, Gpu
from services.provision.errors import ProvisionError
from services.provision.pip_install import Limits, child_environment, last_words, pip_install
from services.provision.progress import Progress, ProgressSink, silent

__all__ = ["ENVIRONMENTS", "Environment", "Home", "ProvisionError", "ensure", "python_of"]

PROJECT = Path(__file__).parents[2]
STAMP = "rigserve-environment.json"
LOCK_POLL_S = 0.5
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")  # the last is WSL's
AMD_DEVICES = ("/dev/kfd", "/dev/dri/renderD*")
DEVICES = {Gpu.NVIDIA: NVIDIA_DEVICES, Gpu.AMD: AMD_DEVICES, Gpu.ANY: NVIDIA_DEVICES + AMD_DEVICES}


@dataclass(frozen=True, slots=True)
class Home:
    """Where lock files and environments lie, and how patient an install is. Tests make their own."""

    requirements: Path = PROJECT / "requirements"
    venvs: Path = field(default_factory=lambda: Path(os.environ.get("RIGSERVE_VENVS") or PROJECT / ".venvs").expanduser().absolute())
    environments: Mapping[str, Environment] = field(default_factory=lambda: ENVIRONMENTS)
    limits: Limits = field(default_factory=Limits)

    def environment(self, name: str) -> Environment:
        if name not in self.environments:
            raise ProvisionError(f"There is no engine environment {name!r}; there are: {', '.join(sorted(self.environments))}.")
        return self.environments[name]

    def lock_file(self, name: str) -> Path:
        return self.requirements / f"{name}.txt"

    def python(self, name: str) -> Path:
        return self.venvs / name / "bin" / "python"


def python_of(name: str, home: Home | None = None) -> Path | None:
    """The python of an environment that is whole and matches its lock file, else None. Reads two small files.

    Raises ProvisionError for a name that is none, or a lock file that can't be read.
    """
    home = home or Home()
    home.environment(name)
    python, expected = home.python(name), _lock_hash(home.lock_file(name))
    try:
        stamp = json.loads((home.venvs / name / STAMP).read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(stamp, dict) and stamp.get("requirements_sha256") == expected and python.exists()
    return python if whole else None


def ensure(name: str, progress: ProgressSink = silent, *, home: Home | None = None, elsewhere: bool = False) -> Path:
    """The python of the environment `name`, installed first if need be. Raises ProvisionError, and then leaves no environment.

    `elsewhere`: it is made for another machine, as in the build of an image. No card is asked for here, and an engine that can't be
    imported without its card's driver is only looked for.

    1. Whole and matching its lock: return at once.
    2. This machine can't run it (Python, processor, card): refuse before a byte moves.
    3. Take the lock of this environment, waiting for another process that holds it; then look again (1).
    4. Remove what a cut or outdated install left; refuse if the disk is too small.
    5. Make the venv, install, import the engine as a probe, write the stamp.
    """
    home = home or Home()
    if python := python_of(name, home):  # 1
        return python
    environment = home.environment(name)
    _require_machine(environment, elsewhere)  # 2
    with _only_one(home, name, progress):  # 3
        if python := python_of(name, home):
            return python
        folder = home.venvs / name
        shutil.rmtree(folder, ignore_errors=True)  # 4
        _require_space(environment, home.venvs)
        try:
            _build(environment, home, progress, elsewhere)  # 5
        finally:
            if not (folder / STAMP).is_file():
                shutil.rmtree(folder, ignore_errors=True)
    return home.python(name)


def _build(environment: Environment, home: Home, progress: ProgressSink, elsewhere: bool) -> None:
    lock_file = home.lock_file(environment.name)
    pinned = _pins(lock_file)
    log = home.venvs / f"{environment.name}.log"
    log.write_text("", encoding="utf8")
    started = time.monotonic()
    progress(Progress("venv", None, None, f"making {home.venvs / environment.name}"))
    _make_venv(home.venvs / environment.name)
    scratch = home.venvs / f"{environment.name}.downloads"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        _install(environment, home, pinned, scratch, log, progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress(Progress("verify", None, None, f"importing {environment.engine} once"))
    _probe(environment, home, elsewhere)
    stamp = {
        "requirements_sha256": _lock_hash(lock_file),
        "python": platform.python_version(),
        "install_s": round(time.monotonic() - started, 1),
        "packages": len(pinned) if not environment.resolve else None,
    }
    partial = home.venvs / environment.name / f"{STAMP}.partial"
    partial.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf8")
    partial.replace(home.venvs / environment.name / STAMP)


def _install(environment: Environment, home: Home, pinned: list[str], scratch: Path, log: Path, progress: ProgressSink) -> None:
    """1. torch by itself: from the sources that pip is configured with; where those lack the build, from PyTorch's own index.
    2. The whole lock file; torch is then there already, so no index is asked for it again.

    Two steps, because an index given beside others is asked for every package: one that can't be reached would be waited for each time.
    """
    python, lock_file = home.python(environment.name), home.lock_file(environment.name)

    def run(arguments: list[str], packages: int | None) -> ProvisionError | None:
        outcome = pip_install(python, arguments, scratch=scratch, packages=packages, limits=home.limits, progress=progress, log=log)
        return None if outcome.ok else ProvisionError(outcome.reason)

    torch = next((pin for pin in pinned if pin.startswith("torch==")), None)
    if torch and environment.torch_index:  # 1
        alone, packages = ([torch], None) if environment.torch_resolve else (["--no-deps", torch], 1)
        failed = run(alone, packages)
        if failed:
            progress(Progress("download", 0, packages, f"pip's sources have no {torch}; asking PyTorch's own index"))
            again = run([f"--index-url={environment.torch_index}", *alone], packages)
            if again:
                raise ProvisionError(
                    f"{torch} could not be installed. From pip's configured sources: {failed}. From PyTorch's index "
                    f"{environment.torch_index}: {again}. Connect this machine to it, or put the wheel of {torch} in a folder and "
                    f"name the folder in PIP_FIND_LINKS; then run again. Full output: {log}"
                )
    index = [f"--index-url={environment.index}"] if environment.index else []
    deps = [] if environment.resolve else ["--no-deps"]
    failed = run([*deps, *index, "-r", str(lock_file)], None if environment.resolve else len(pinned))  # 2
    if failed:
        raise ProvisionError(
            f"The engine environment {environment.name} could not be installed: {failed}. Check the connection to the package index (pip's "
            f"own settings are used) and the Python version ({platform.python_version()}; made and tested with 3.11), then run again. "
            f"Full output: {log}"
        )


def _make_venv(folder: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False, env=child_environment())
    if made.returncode != 0:
        raise ProvisionError(
            f"{sys.executable} could not make the virtual environment {folder}: {last_words((made.stdout + made.stderr).splitlines())} "
            f"On Debian and Ubuntu: apt install python3-venv."
        )


def _probe(environment: Environment, home: Home, elsewhere: bool) -> None:
    """Run the probe with the new python. An engine that can't be imported is not installed."""
    probe = environment.probe_elsewhere if elsewhere and environment.probe_elsewhere else environment.probe
    command = [str(home.python(environment.name)), "-c", probe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment(), timeout=home.limits.probe_s)
    except subprocess.TimeoutExpired:
        raise ProvisionError(f"{environment.engine} was installed but its import took longer than {home.limits.probe_s:.0f} s.") from None
    if done.returncode == -4:
        raise ProvisionError(f"{environment.engine} was installed but this processor lacks an instruction it is compiled for (SIGILL).")
    if done.returncode != 0:
        why = last_words((done.stdout + done.stderr).splitlines()[-1:])
        raise ProvisionError(f"{environment.engine} was installed but can't be imported (exit {done.returncode}): {why}")


def _require_machine(environment: Environment, elsewhere: bool) -> None:
    """1. Python outside what the locked wheels exist for. 2. Processor without the needed instructions (x86-64). 3. No such card."""
    low, high = environment.python_from, environment.python_below
    if not low <= sys.version_info[:2] < high:  # 1
        raise ProvisionError(
            f"{environment.name} needs Python {low[0]}.{low[1]} to {high[0]}.{high[1] - 1} (tested with 3.11); this is "
            f"{platform.python_version()}. Make the environment of rigserve with such a Python: make install PYTHON=python3.11"
        )
    flags = _cpu_flags()
    missing = sorted(environment.cpu_flags - flags) if flags else []
    if missing:  # 2
        raise ProvisionError(
            f"{environment.engine} ({environment.name}) needs the processor instructions {', '.join(missing)}, which this one lacks. "
            f"{environment.otherwise}"
        )
    devices = DEVICES[environment.gpu] if environment.gpu and not elsewhere else ()
    if devices and not any(glob.glob(device) for device in devices):  # 3
        raise ProvisionError(
            f"{environment.name} is for {environment.gpu} GPUs, and no driver for one is loaded on this machine (none of "
            f"{', '.join(devices)} exists). Install the card's driver first."
        )


def _cpu_flags() -> frozenset[str]:
    """The kernel's names of the processor's instruction sets; empty where not known or not x86-64, where the wheels differ."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in text.splitlines() if line.startswith("flags")), frozenset())


def _require_space(environment: Environment, folder: Path) -> None:
    if environment.disk_bytes is None:
        return
    need_bytes = environment.disk_bytes + (environment.download_bytes or 0)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise ProvisionError(
            f"{environment.name} needs {need_bytes / 2**30:.1f} GiB in {folder} while it installs, and {free_bytes / 2**30:.1f} GiB is "
            f"free. Free some, or set RIGSERVE_VENVS to a folder on a larger disk."
        )


@contextmanager
def _only_one(home: Home, name: str, progress: ProgressSink) -> Iterator[None]:
    """Hold `.venvs/<name>.lock`. The kernel lets go of it when its holder dies."""
    try:
        home.venvs.mkdir(parents=True, exist_ok=True)
        lock = (home.venvs / f"{name}.lock").open("w")
    except OSError as error:
        raise ProvisionError(f"{home.venvs} can't be written ({error.strerror}). Set RIGSERVE_VENVS to a folder that can.") from error
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress(Progress("wait", None, None, f"another rigserve process is installing {name}; waiting for it"))
                time.sleep(LOCK_POLL_S)
        yield


def _lock_hash(lock_file: Path) -> str:
    try:
        return hashlib.sha256(lock_file.read_bytes()).hexdigest()
    except OSError as error:
        raise ProvisionError(f"The lock file {lock_file} can't be read ({error.strerror}). This checkout is incomplete.") from error


def _pins(lock_file: Path) -> list[str]:
    """The requirement lines of a lock file, comments and options left out."""
    lines = (line.partition("#")[0].strip() for line in lock_file.read_text(encoding="utf8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]
