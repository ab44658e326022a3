"""Real processes from end to end: a worker, its guard, the fake engine and its grandchildren."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from services.hardware.memory import process_tree
from services.worker import lifecycle
from services.worker.__main__ import main
from tests.worker.running import Workers, alive, gone
from tests.worker.sample import CPU, TOKEN

pytestmark = pytest.mark.slow


def test_start_status_token_kill_and_restart(workers: Workers) -> None:
    begun = time.monotonic()
    worker = workers.start("chatty")
    status = worker.wait_for("ready")
    took_s = time.monotonic() - begun
    assert took_s < 20.0  # 1 s on an idle machine; the tests may share theirs
    names = ("placement_id", "model_id", "card_id", "engine", "reason", "restarts")
    assert [status[name] for name in names] == ["small-0", "small-chat", "sim-0", "llama.cpp", None, 0]
    assert 0 < status["load_s"] <= took_s
    assert alive(status["engine_pid"])
    assert 5 * 2**20 < status["resident_bytes"] <= status["peak_bytes"] < 200 * 2**20
    assert 5 * 2**20 < status["worker_resident_bytes"] < 80 * 2**20
    assert status["free_bytes_at_start"] <= CPU.total_bytes

    for token in (None, "wrong", TOKEN + "x", TOKEN[:-1]):
        code, body = worker.call(token=token)
        assert code == 401
        assert body["error"]["code"] == "invalid_api_key"
        assert worker.call("POST", "/restart", token)[0] == 401
    assert worker.call("GET", "/nothing")[1]["error"]["code"] == "route_not_found"
    assert worker.call("GET", "/restart")[0] == 405
    assert worker.call("DELETE", "/status")[1]["error"]["code"] == "method_not_allowed"

    # No secret in log, argv or environment.
    log = worker.log()
    assert "api key: ***" in log
    assert TOKEN not in log + worker.errors()
    assert "hunter2" not in log
    for name in ("cmdline", "environ"):
        raw = Path(f"/proc/{status['engine_pid']}/{name}").read_bytes()
        assert raw
        assert TOKEN.encode() not in raw
        assert b"hunter2" not in raw
    scratch = next(one for one in raw.decode().split("\0") if one.startswith("TMPDIR=")).removeprefix("TMPDIR=")
    assert Path(scratch).stat().st_mode & 0o777 == 0o700

    os.kill(status["engine_pid"], signal.SIGKILL)
    killed = time.monotonic()
    down = worker.wait_for(lambda now: now["state"] != "ready")
    assert time.monotonic() - killed < 3.0  # 10 ms on an idle machine
    assert (down["state"], down["engine_pid"]) == ("restarting", None)
    assert "SIGKILL" in down["reason"]
    after = worker.wait_for("ready")
    assert after["restarts"] == 1
    assert not Path(scratch).exists()

    assert worker.call("POST", "/restart")[0] == 202
    again = worker.wait_for(lambda now: now["state"] == "ready" and now["restarts"] == 2)
    assert len({status["engine_pid"], after["engine_pid"], again["engine_pid"]}) == 3
    assert not alive(after["engine_pid"])

    # Its port is taken: a second worker says so.
    argv, _, _ = workers.arguments("good")
    argv[argv.index("--port") + 1] = str(worker.port)
    code, said = workers.run(*argv)
    assert code == 2
    assert f"status port {worker.port}" in said
    assert worker.stop(signal.SIGINT) == 0


def test_sigterm_leaves_nothing(workers: Workers) -> None:
    worker = workers.start("family")
    worker.wait_for("ready")
    tree = process_tree(worker.process.pid)
    assert int((workers.folder / "family.child").read_text()) in tree
    assert len(tree) == 4  # worker, guard, engine, grandchild
    assert worker.stop() == 0
    assert not [pid for pid in tree if alive(pid)]
    assert "Traceback" not in worker.errors()


@pytest.mark.parametrize(("victim", "mode"), [("worker", "family"), ("worker", "stubborn"), ("guard", "family")])
def test_kill_9_leaves_no_orphan(workers: Workers, victim: str, mode: str) -> None:
    worker = workers.start(mode)
    engine = worker.wait_for("ready")["engine_pid"]
    me, guard, *_ = process_tree(worker.process.pid)
    scratch = Path(Path(f"/proc/{guard}/cmdline").read_text().split("\0")[6])
    assert scratch.name.startswith("rigserve-")
    assert scratch.is_dir()
    child = workers.folder / "family.child"
    grandchild = int(child.read_text()) if child.exists() else engine
    os.kill(me if victim == "worker" else guard, signal.SIGKILL)
    if victim == "worker":
        worker.process.wait()
    assert gone(engine)
    assert gone(guard)
    assert victim == "guard" or not scratch.exists()
    if victim == "worker":
        assert gone(grandchild)
    else:  # a grandchild in a session of its own can only be followed while the guard lives
        os.kill(grandchild, signal.SIGKILL)
        worker.wait_for(lambda status: status["restarts"] == 1 and status["state"] == "ready")
        assert not scratch.exists()


def test_an_engine_given_up_ends_the_worker_with_3_when_asked(
    workers: Workers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_S", 0.02)
    argv, _, _ = workers.arguments("crash")
    argv[argv.index("--engine-binary") + 1] = "/bin/false"
    assert main([*argv, "--exit-on-failure"]) == 3
    said = capsys.readouterr().err
    assert "failed: given up after 3 starts; the last: the engine ended with code 1 and printed nothing" in said


@pytest.mark.parametrize(("change", "words"), [
    ({"--placement": "nope"}, "has no placement nope; it has small-0"),
    ({"--plan": "/nowhere/plan.yaml"}, "can't be read"),
    ({"--weights": "/nowhere/x.gguf"}, "there is no such file"),
    ({"--token-file": "/nowhere/token"}, "--token-file /nowhere/token can't be read"),
    ({"--port": "99999"}, "invalid port value: '99999'"),
])
def test_bad_arguments_end_with_2_and_a_sentence(
    workers: Workers, capsys: pytest.CaptureFixture[str], change: dict[str, str], words: str
) -> None:
    argv, _, _ = workers.arguments("good")
    for name, value in change.items():
        argv[argv.index(name) + 1] = value
    try:
        code = main(argv)
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err
