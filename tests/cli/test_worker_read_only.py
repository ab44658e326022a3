"""A worker as its container runs it: nothing may be written but /tmp and the state folder, and no capability helps."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.sizing.planfile import dump_plan
from tests.gateway.rig import rig_plan
from tests.worker.running import PROJECT, free_port
from tests.worker.sample import TOKEN

pytestmark = pytest.mark.slow

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
STAND_IN = f"""#!{sys.executable} -S
import argparse, asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {str(PROJECT)!r})
from tests.fakes import engine
parser = argparse.ArgumentParser(allow_abbrev=False)
for flag in ("--model-id", "--host", "--port", "--token-file"):
    parser.add_argument(flag, required=True)
args, _ = parser.parse_known_args()
print("the stand-in for the image engine", flush=True)
token = Path(args.token_file).read_text().strip()
fake = engine.FakeEngine(engine.Settings(args.model_id, "diffusers"), token, engine.Fault(), 0.0)
asyncio.run(engine.serve(args.host, int(args.port), fake))
"""


def without_roots_rights() -> None:
    """In the child: the rights of files hold for root too, from the next exec on (of no effect for other users, who have none to lose)."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def installed(root: Path) -> None:
    """What the image holds: services/, one model, its lock file and a whole engine environment."""
    shutil.copytree(PROJECT / "services", root / "services", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "models").mkdir()
    shutil.copytree(PROJECT / "models" / "digits-sd", root / "models" / "digits-sd")
    for name in ("digits-sd.yaml", "qwen2.5-0.5b-instruct.yaml"):
        shutil.copy(PROJECT / "models" / name, root / "models")
    (root / "requirements").mkdir()
    lock = root / "requirements" / "diffusion-cpu.txt"
    shutil.copy(PROJECT / "requirements" / "diffusion-cpu.txt", lock)
    environment = root / "envs" / "diffusion-cpu"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    stamp = {"requirements_sha256": hashlib.sha256(lock.read_bytes()).hexdigest()}
    (environment / "rigserve-environment.json").write_text(json.dumps(stamp))


def read_only(root: Path, yes: bool) -> None:
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o555 if yes else 0o755)


@pytest.fixture
def root(tmp_path: Path):  # type: ignore[no-untyped-def]
    root = tmp_path / "root"
    installed(root)
    (root / "plan.yaml").write_text(dump_plan(rig_plan()))
    (root / "token").write_text(TOKEN)
    (root / "token").chmod(0o400)
    read_only(root, True)
    yield root
    read_only(root, False)


def test_from_start_to_drain(root: Path, tmp_path: Path) -> None:
    state, shared = tmp_path / "state", tmp_path / "shared"
    state.mkdir(0o700)
    shared.mkdir()
    port = free_port()
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "RIGSERVE_VENVS": str(root / "envs"), "RIGSERVE_CACHE": str(root / "weights"),
           "RIGSERVE_STATE_DIR": str(state), "PYTHONDONTWRITEBYTECODE": "1"}
    rigserve = [sys.executable, "-m", "services.cli.main"]
    argv = [*rigserve, "worker", "--plan", "plan.yaml", "--placement", "digits", "--token-file", "token", "--port", str(port),
            "--engine-port", str(free_port()), "--load-lock", str(shared / "lock"), "--drain-s", "1"]
    out = tmp_path / "out"
    with out.open("wb") as log:
        worker = subprocess.Popen(argv, cwd=root, env=env, stdout=log, stderr=log, preexec_fn=without_roots_rights)
    try:
        health = [*rigserve, "health", "worker", "--port", str(port)]
        seen = []
        until = time.monotonic() + 40
        while time.monotonic() < until and worker.poll() is None:
            done = subprocess.run(health, cwd=root, env=env, capture_output=True, text=True)
            seen.append((done.returncode, (done.stdout + done.stderr).strip()))
            if done.returncode == 0:
                break
        assert seen[-1] == (0, "worker: ready"), out.read_text()
        assert seen[0][0] == 1, "not healthy before it is ready"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        said = out.read_text()
        assert "the stand-in for the image engine" in said, "the engine's output is the container's log"
        assert "digits: draining" in said
        assert TOKEN not in said
        assert {path.name for path in tmp_path.iterdir()} == {"root", "state", "shared", "out"}
        assert list(state.iterdir()) == []
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def test_a_state_folder_that_cannot_be_written_is_a_sentence(root: Path) -> None:
    argv = [sys.executable, "-m", "services.cli.main", "worker", "--plan", "plan.yaml", "--placement", "digits", "--token-file", "token",
            "--state-dir", str(root / "state")]
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "RIGSERVE_VENVS": str(root / "envs"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, preexec_fn=without_roots_rights, timeout=60)
    assert done.returncode == 2
    assert f"error: --state-dir {root / 'state'} can't be used (Permission denied)" in done.stderr
    assert "Traceback" not in done.stderr
