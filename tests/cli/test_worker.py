"""`rigserve worker` and `rigserve health`: what a container runs, without a container."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.main import COMMANDS, main
from services.sizing.planfile import dump_plan
from services.worker.__main__ import arguments
from tests.gateway.rig import rig_plan
from tests.worker.running import PROJECT
from tests.worker.sample import TOKEN


def health(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["health", *arguments])
    return done.exit_code, done.output.strip()


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """A port that answers every GET alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "body", "code", "said"), [
    (200, b'{"state": "ready"}', 0, "worker: ready"), (503, b'{"state": "loading"}', 1, "worker: loading"),
    (500, b"<html>", 1, "worker: status 500"), (404, b'{"error": {}}', 1, "worker: status 404"), (503, b"[]", 1, "worker: status 503"),
])
def test_health_is_the_state(status: int, body: bytes, code: int, said: str) -> None:
    with answering(status, body) as port:
        exit_code, output = health("worker", "--port", str(port))
    assert exit_code == code
    assert output.removeprefix("Error: ") == said


def test_health_of_a_gateway_and_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # a proxy in the environment must not be asked about our own port
    with answering(200, b'{"status": "ok"}') as port:
        assert health("gateway", "--port", str(port)) == (0, "gateway: ok")
    code, output = health("gateway", "--port", str(port))
    assert (code, output.partition("(")[0]) == (1, f"Error: gateway: no answer at 127.0.0.1:{port} ")


def test_health_imports_little() -> None:
    """It runs every few seconds in each container, on a Celeron."""
    code = ("import sys\nfrom services.cli.main import main\n"
            "try: main(['health', 'worker', '--port', '1'])\nexcept SystemExit: pass\n"
            "print({'yaml', 'rich', 'asyncio', 'services.sizing.types', 'services.provision.errors'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_a_command_whose_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's image has no rich and no filelock: its --help works, and what needs them says so."""
    monkeypatch.setitem(sys.modules, "rich", None)
    for name in [name for name in sys.modules if name.startswith(("rich.", "services.cli.")) and name != "services.cli.main"]:
        monkeypatch.delitem(sys.modules, name)
    run = CliRunner().invoke(main, ["plan", "--cards", "RTX 3060 Ti:1"])
    assert run.exit_code == 1
    assert "`rigserve plan` is not part of this installation: rich" in run.output
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0, shown.output
    assert all(f"  {name} " in shown.output for name in COMMANDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan, a token, and no weights and no engine."""
    monkeypatch.setenv("RIGSERVE_VENVS", str(tmp_path / "venvs"))
    monkeypatch.setenv("RIGSERVE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "plan.yaml").write_text(dump_plan(rig_plan()))
    (tmp_path / "token").write_text(TOKEN)
    return tmp_path


def run(folder: Path, *more: str, ident: str = "digits") -> tuple[int, str]:
    argv = ["worker", "--plan", str(folder / "plan.yaml"), "--placement", ident, "--token-file", str(folder / "token"),
            "--state-dir", str(folder / "state"), *more]
    done = CliRunner().invoke(main, argv)
    return done.exit_code, " ".join(done.output.split())


def whole_environment(folder: Path, name: str) -> Path:
    """What counts as an installed environment: a stamp with the lock file's hash, and a python."""
    home = folder / "venvs" / name
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    digest = hashlib.sha256((PROJECT / "requirements" / f"{name}.txt").read_bytes()).hexdigest()
    (home / "rigserve-environment.json").write_text(json.dumps({"requirements_sha256": digest}))
    return home / "bin" / "python"


def test_what_is_missing_is_a_sentence_and_2(folder: Path) -> None:
    code, said = run(folder, ident="nope")
    assert code == 2
    assert "has no placement nope; it has llm-vllm, llm-llamacpp, digits" in said
    code, said = run(folder)
    assert code == 2
    assert "the engine environment diffusion-cpu of placement digits is not whole in" in said
    whole_environment(folder, "llamacpp-cpu")
    code, said = run(folder, ident="llm-llamacpp")
    assert code == 2
    assert "the weights of qwen2.5-0.5b-instruct" in said
    assert "are not complete in" in said
    assert "rigserve fetch --plan" in said
    (folder / "plan.yaml").write_text("nonsense: [")
    assert run(folder)[0] == 2
    (folder / "plan.yaml").unlink()
    assert run(folder)[0] == 2


def test_it_becomes_the_worker_with_what_lies_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = whole_environment(folder, "diffusion-cpu")
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, argv: became.append([program, *argv]))
    monkeypatch.chdir(folder)  # it changes to the project's folder; the test's own comes back
    code, said = run(Path(), "--load-lock", "lock", "--drain-s", "5", "--exit-on-failure")
    assert code == 0, said
    argv = became[0]
    assert argv[:4] == [sys.executable, sys.executable, "-m", "services.worker"]
    given = arguments(argv[4:])  # every flag is one that the worker knows
    assert (given.engine_python, given.weights) == (python, PROJECT / "models" / "digits-sd")
    assert (given.port, given.engine_port, given.drain_s, str(given.log_file)) == (9100, 9101, 5.0, "-")
    names = {"plan.yaml": given.plan, "token": given.token_file, "lock": given.load_lock, "state": given.state_dir}
    for name, path in names.items():
        assert path == folder / name, "absolute: the worker runs in another folder"
    assert given.exit_on_failure


def test_fetch_weights_only(folder: Path) -> None:
    """What the one-shot container of an engine's image runs: its placements' weights, and no engine is installed."""
    argv = ["fetch", "--plan", str(folder / "plan.yaml"), "--weights-only", "--environment"]
    done = CliRunner().invoke(main, [*argv, "diffusion-cpu"])
    assert done.exit_code == 0, done.output
    assert f"digits-sd: {PROJECT / 'models' / 'digits-sd'}" in done.output
    assert "smollm2" not in done.output
    assert not (folder / "venvs").exists()
    done = CliRunner().invoke(main, [*argv, "vllm-cuda"])
    assert done.exit_code == 2
    assert "uses no vllm-cuda; it uses diffusion-cpu, llamacpp-cpu, vllm-cpu" in " ".join(done.output.split())
