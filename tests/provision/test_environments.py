"""Engine environments: built with the real venv and pip from an index on 127.0.0.1, and with a scripted pip for what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.provision import environments
from services.provision.environments import ENVIRONMENTS, Environment, Home, ProvisionError, ensure, python_of
from services.provision.pip_install import Limits
from services.provision.progress import Progress
from tests.fakes.package_index import PackageIndex, package_index, wheel

pytestmark = pytest.mark.slow

LOCK = "# how it was made\ntorch==9.9+cpu\nenginelib==1.0\n"
PROBE = "import torch, enginelib; assert torch.KIND == 'cpu'"
HURRIED = Limits(timeout_s=1, retries=1, stall_s=20, failed_connections=4, probe_s=20)


@pytest.fixture(autouse=True)
def only_our_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine's pip reaches these tests."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """pip's configured index has the engine; PyTorch's, beside it, has torch."""
    with package_index() as made:
        made.add("simple", wheel("enginelib", "1.0", "NAME = 'engine'"))
        made.add("pytorch", wheel("torch", "9.9+cpu", "KIND = 'cpu'"))
        monkeypatch.setenv("PIP_INDEX_URL", made.url("simple"))
        yield made


@pytest.fixture(scope="session")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real virtual environment with pip, copied by the tests: making one takes seconds."""
    folder = tmp_path_factory.mktemp("venv") / "template"
    environments._make_venv(folder)
    return folder


def home_of(folder: Path, torch_index: str | None = None, *, lock: str = LOCK, probe: str = PROBE, **fields: object) -> Home:
    requirements = folder / "requirements"
    requirements.mkdir(exist_ok=True)
    (requirements / "tiny.txt").write_text(lock)
    row = Environment("tiny", "TinyEngine", "tests", probe, torch_index=torch_index, **fields)  # type: ignore[arg-type]
    return Home(requirements, folder / "venvs", {"tiny": row}, HURRIED)


def copied_from(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_make_venv", lambda folder: shutil.copytree(template, folder, symlinks=True))


def scripted(monkeypatch: pytest.MonkeyPatch, *, pip: str = "exit 0", probe: str = "exit 0") -> None:
    """Environments whose python is a shell script: `pip` runs for pip, `probe` for the probe."""
    script = f'#!/bin/sh\nif [ "$2" = pip ]; then\n{pip}\nfi\n{probe}\n'

    def make(folder: Path) -> None:
        python = folder / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(script)
        python.chmod(0o755)

    monkeypatch.setattr(environments, "_make_venv", make)


def left_in(home: Home) -> set[str]:
    return {path.name for path in home.venvs.iterdir()}


# --- with the real venv and pip --------------------------------------------------------------------------------------


def test_torch_comes_from_pytorchs_index_where_pips_sources_lack_it(
    tmp_path: Path, index: PackageIndex, empty_venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_from(empty_venv, monkeypatch)
    home = home_of(tmp_path, index.url("pytorch"))
    seen: list[Progress] = []
    python = ensure("tiny", seen.append, home=home)

    versions = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    assert {"name": "torch", "version": "9.9+cpu"} in json.loads(versions.stdout)
    assert {"name": "enginelib", "version": "1.0"} in json.loads(versions.stdout)
    assert index.asked.count("/pytorch/enginelib/") == 0, "PyTorch's index is asked for torch only"
    assert index.asked.count("/simple/torch/") == 1
    assert [p.stage for p in seen if p.stage in ("venv", "verify")] == ["venv", "verify"]
    counted = [p for p in seen if p.stage in ("download", "install")]
    assert counted
    assert all(p.done is not None and p.total in (1, 2) and p.done <= p.total for p in counted)
    assert left_in(home) == {"tiny", "tiny.lock", "tiny.log"}

    asked, started = len(index.asked), time.perf_counter()
    assert ensure("tiny", seen.append, home=home) == python == python_of("tiny", home)
    assert time.perf_counter() - started < 0.05
    assert len(index.asked) == asked


def test_torch_comes_from_pips_own_sources_where_they_have_it(
    tmp_path: Path, index: PackageIndex, empty_venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_from(empty_venv, monkeypatch)
    name, data = wheel("torch", "9.9+cpu", "KIND = 'cpu'")
    (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    ensure("tiny", home=home_of(tmp_path, index.url("pytorch")))
    assert not [path for path in index.asked if path.startswith("/pytorch")]


def test_no_source_has_torch(tmp_path: Path, index: PackageIndex, empty_venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied_from(empty_venv, monkeypatch)
    index.add("simple", wheel("torch", "9.9", "KIND = 'cuda'"))  # the default build must never stand in for the CPU build
    home = home_of(tmp_path, index.url("elsewhere"))
    started = time.monotonic()
    with pytest.raises(ProvisionError, match=r"torch==9\.9\+cpu could not be installed.*No matching distribution.*PIP_FIND_LINKS"):
        ensure("tiny", home=home)
    assert time.monotonic() - started < 30
    assert left_in(home) == {"tiny.lock", "tiny.log"}
    assert python_of("tiny", home) is None
    assert "No matching distribution" in (home.venvs / "tiny.log").read_text()


def test_an_index_that_never_answers_costs_bounded_time(
    tmp_path: Path, index: PackageIndex, empty_venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_from(empty_venv, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, then says nothing
        home = home_of(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/whl/cpu")
        started = time.monotonic()
        with pytest.raises(ProvisionError, match=r"PyTorch's index .*could not be reached \(Read timed out.*Connect this machine to it"):
            ensure("tiny", home=home)
        assert time.monotonic() - started < 30
    assert left_in(home) == {"tiny.lock", "tiny.log"}


def test_a_package_that_exists_only_as_source_is_not_built(
    tmp_path: Path, index: PackageIndex, empty_venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_from(empty_venv, monkeypatch)
    index.wheels["/simple/enginelib/"] = ("enginelib-1.0.tar.gz", b"never opened")
    home = home_of(tmp_path, lock="enginelib==1.0\n")
    with pytest.raises(ProvisionError, match=r"environment tiny could not be installed: .*enginelib==1\.0"):
        ensure("tiny", home=home)


# --- with a scripted pip ---------------------------------------------------------------------------------------------


def test_a_changed_lock_is_installed_anew_and_a_cut_install_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    home = home_of(tmp_path)
    ensure("tiny", home=home)
    (home.venvs / "tiny" / "old").touch()

    home.lock_file("tiny").write_text(LOCK + "more==1\n")
    assert python_of("tiny", home) is None
    ensure("tiny", home=home)
    assert not (home.venvs / "tiny" / "old").exists()

    (home.venvs / "tiny" / environments.STAMP).write_text('{"requirements_sha2')
    assert python_of("tiny", home) is None
    ensure("tiny", home=home)
    assert python_of("tiny", home) is not None

    (home.venvs / "tiny" / "bin" / "python").unlink()
    assert python_of("tiny", home) is None


@pytest.mark.parametrize(
    ("pip", "probe", "said"),
    [
        ("echo 'ERROR: No space left on device'; exit 1", "", r"could not be installed: No space left on device"),
        ("echo one; echo two; echo three; exit 2", "", r"could not be installed: one / two / three"),
        ("exit 1", "", r"pip said nothing"),
        ("exit 0", "echo 'ImportError: no libfoo' >&2; exit 1", r"TinyEngine was installed but can't be imported \(exit 1\): .*no libfoo"),
        ("exit 0", "kill -ILL $$", r"lacks an instruction"),
        ("echo 'See https://me:secret@host/'; echo 'ERROR: https://me:secret@host gone'; exit 1", "", r"https://\*\*\*@host gone"),
    ],
)
def test_what_went_wrong_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: str, probe: str, said: str
) -> None:
    scripted(monkeypatch, pip=pip, probe=probe)
    home = home_of(tmp_path)
    with pytest.raises(ProvisionError, match=said) as caught:
        ensure("tiny", home=home)
    assert "secret" not in str(caught.value) + (home.venvs / "tiny.log").read_text()
    assert left_in(home) == {"tiny.lock", "tiny.log"}


def test_pip_is_stopped_when_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, pip=f"echo 'Collecting enginelib==1.0'; echo $$ > {tmp_path}/pid; exec sleep 300")
    home = home_of(tmp_path)
    patient = Home(home.requirements, home.venvs, home.environments, Limits(stall_s=1.0))
    with pytest.raises(ProvisionError, match=r"pip did nothing for 1 s and was stopped; its last words: Collecting enginelib"):
        ensure("tiny", home=patient)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_pip_is_stopped_after_so_many_failed_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retry = "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError('<C>: [Errno -2] Name not known')': /s/"
    scripted(monkeypatch, pip=f'while true; do echo "{retry}"; sleep 0.1; done')
    with pytest.raises(ProvisionError, match=r"gave up after \d+ failed connections .*\(\[Errno -2\] Name not known\)"):
        ensure("tiny", home=home_of(tmp_path))


def test_an_interrupted_install_ends_pip_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, pip=f"echo $$ > {tmp_path}/pid; exec sleep 300")
    home = home_of(tmp_path)

    def interrupt(progress: Progress) -> None:
        if progress.stage == "download" and (tmp_path / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure("tiny", interrupt, home=home)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert left_in(home) == {"tiny.lock", "tiny.log"}


def test_two_at_once_install_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, pip=f"echo run >> {tmp_path}/runs; sleep 0.5; exit 0")
    home = home_of(tmp_path)
    waited: list[Progress] = []
    threads = [threading.Thread(target=ensure, args=("tiny", waited.append), kwargs={"home": home}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "runs").read_text() == "run\n"
    assert any(p.stage == "wait" and "another rigserve process is installing tiny" in p.text for p in waited)


def test_a_holder_that_was_killed_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    home = home_of(tmp_path)
    home.venvs.mkdir()
    lock = home.venvs / "tiny.lock"
    hold = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
    ensure("tiny", home=home)


def test_pip_and_probe_see_no_secret_and_no_setting_that_misplaces_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, pip=f"env > {tmp_path}/pip-env; exit 0", probe=f"env > {tmp_path}/probe-env; exit 0")
    given = {"HF_TOKEN": "secret", "RIGSERVE_KEY": "secret", "AWS_SECRET_ACCESS_KEY": "secret", "PIP_TARGET": "/elsewhere", "PIP_USER": "1",
             "PYTHONPATH": "/elsewhere", "PYTHONDONTWRITEBYTECODE": "1", "PIP_PROXY": "http://proxy:3128", "HTTPS_PROXY": "http://proxy:3128"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ensure("tiny", home=home_of(tmp_path))
    for text in ((tmp_path / "pip-env").read_text(), (tmp_path / "probe-env").read_text()):
        assert "secret" not in text
        assert "/elsewhere" not in text
        assert "PYTHONDONTWRITEBYTECODE" not in text
        assert text.count("http://proxy:3128") == 2
        assert "PIP_NO_INPUT=1" in text


@pytest.mark.parametrize(("given", "flags"), [({}, "--timeout=1 --retries=1"), ({"PIP_DEFAULT_TIMEOUT": "99", "PIP_RETRIES": "7"}, "")])
def test_the_users_own_patience_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], flags: str) -> None:
    scripted(monkeypatch, pip=f'echo "$@" > {tmp_path}/arguments; exit 0')
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ensure("tiny", home=home_of(tmp_path))
    arguments = (tmp_path / "arguments").read_text()
    assert flags in arguments
    assert ("--timeout" in arguments) == (not given)
    assert "--only-binary=:all:" in arguments
    assert "--no-deps" in arguments


# --- refusals before anything is fetched -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"python_from": (3, 99), "python_below": (3, 101)}, r"needs Python 3\.99 to 3\.100 \(tested with 3\.11\); this is 3\."),
        ({"python_from": (3, 2), "python_below": (3, 4)}, r"needs Python 3\.2 to 3\.3"),
        ({"disk_bytes": 2**60}, r"GiB is free\. Free some, or set RIGSERVE_VENVS"),
    ],
)
def test_a_machine_that_cannot_run_it_is_told_before_anything_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], said: str
) -> None:
    scripted(monkeypatch, pip=f"touch {tmp_path}/ran; exit 0")
    home = home_of(tmp_path, **fields)
    with pytest.raises(ProvisionError, match=said):
        ensure("tiny", home=home)
    assert not (tmp_path / "ran").exists()


def test_missing_processor_instructions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    monkeypatch.setattr(environments, "_cpu_flags", lambda: frozenset({"sse4_2", "avx"}))
    home = home_of(tmp_path, cpu_flags=frozenset({"avx", "avx2", "fma"}), otherwise="Use the other one.")
    with pytest.raises(ProvisionError, match=r"TinyEngine \(tiny\) needs the processor instructions avx2, fma.*Use the other one\."):
        ensure("tiny", home=home)
    monkeypatch.setattr(environments, "_cpu_flags", lambda: frozenset())  # not x86-64, or unknown: no reason to refuse
    ensure("tiny", home=home)


def test_a_gpu_environment_is_not_installed_where_no_driver_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    monkeypatch.setattr(environments, "DEVICES", {environments.Gpu.NVIDIA: (str(tmp_path / "nvidia*"),)})
    home = home_of(tmp_path, gpu=environments.Gpu.NVIDIA)
    with pytest.raises(ProvisionError, match=r"tiny is for NVIDIA GPUs, and no driver for one is loaded"):
        ensure("tiny", home=home)
    (tmp_path / "nvidiactl").touch()
    ensure("tiny", home=home)


def test_made_for_another_machine_no_card_is_asked_for_and_the_engine_is_only_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, probe='test "$2" = looked-for')
    monkeypatch.setattr(environments, "DEVICES", {environments.Gpu.NVIDIA: (str(tmp_path / "nvidia*"),)})
    home = home_of(tmp_path, gpu=environments.Gpu.NVIDIA, probe="imported", probe_elsewhere="looked-for")
    with pytest.raises(ProvisionError, match="no driver for one is loaded"):
        ensure("tiny", home=home)
    assert ensure("tiny", home=home, elsewhere=True) == home.python("tiny")
    other = home_of(tmp_path, gpu=environments.Gpu.NVIDIA, probe="imported", lock=LOCK + "# changed\n")
    with pytest.raises(ProvisionError, match="can't be imported"):
        ensure("tiny", home=other, elsewhere=True)  # no other probe: the real one must pass


def test_unknown_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"no engine environment 'vllm'; there are: diffusion-cpu, .*vllm-cpu"):
        ensure("vllm")
    home = home_of(tmp_path)
    home.lock_file("tiny").unlink()
    with pytest.raises(ProvisionError, match=r"lock file .*tiny\.txt can't be read"):
        ensure("tiny", home=home)
    (tmp_path / "venvs").write_text("a file where a folder should be")
    home.lock_file("tiny").write_text(LOCK)
    with pytest.raises(ProvisionError, match=r"can't be written .*RIGSERVE_VENVS"):
        ensure("tiny", home=home)


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("name", ["vllm-cpu", "diffusion-cpu", "llamacpp-cpu"])
def test_the_real_environment_installs_and_runs_its_probe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # pip as this machine has it
    python = ensure(name)
    done = subprocess.run([python, "-c", ENVIRONMENTS[name].probe], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
