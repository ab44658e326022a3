"""The kit as it is run, with locust, in an environment of its own (`make load-env`). Marked engine: the light one has no locust."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.fakes.process import PROJECT, FakeEngineProcess, fake_engine
from tests.loadtest.test_result import SCHEMA

__all__ = ["fake_engine"]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]
PYTHON = PROJECT / ".venvs" / "loadtest" / "bin" / "python"
Engines = Callable[..., FakeEngineProcess]


def loadtest(*words: str, code: int = 0) -> str:
    """What the command said, on both outputs; it must end with `code` and never with a traceback."""
    assert PYTHON.exists(), "the load test's environment is missing: make load-env"
    ended = subprocess.run([str(PYTHON), "-m", "loadtest", *words], cwd=PROJECT, capture_output=True, text=True, timeout=150, check=False)
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    assert ended.returncode == code, said
    return said


def run(url: str, out: Path, *more: str, code: int = 0, seconds: float = 3) -> dict[str, Any]:
    loadtest("run", "--url", url, "--out", str(out), "--duration", str(seconds), "--warmup", "0", "--drain", "5", *more, code=code)
    found: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf8"))
    jsonschema.validate(found, SCHEMA)
    assert (out / "report.html").stat().st_size > 5000
    return found


def rows(out: Path, kind: str = "request") -> list[dict[str, Any]]:
    lines = (out / "requests.jsonl").read_text(encoding="utf8").splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def test_known_times_are_measured_as_they_are(tmp_path: Path) -> None:
    """TTFT 200 ms, 20 ms between tokens: what iter_lines or the headers' time would show is far outside of these bounds."""
    out = tmp_path / "calibration.json"
    loadtest("calibrate", "--streams", "1,10", "--seconds", "5", "--out", str(out))
    for row in json.loads(out.read_text())["rows"]:
        assert abs(row["ttft_error_s"]["p50"]) < 0.005, row
        assert abs(row["ttft_client_error_s"]["p95"]) < 0.015, row
        assert abs(row["tpot_error_s"]["p95"]) < 0.001, row
        assert abs(row["output_tok_s_error"]) < 0.03, row
        assert row["client_tokens"] == row["mock_tokens"], row
        assert row["failures"] == 0


def test_two_generators_send_the_schedule_once_and_lose_no_row(fake_engine: Engines, tmp_path: Path) -> None:
    engine = fake_engine(ttft_s=0.02, itl_s=0.002)
    found = run(engine.url, tmp_path, "--profile", "chat", "--rate", "20", "--processes", "2", "--seed", "4", "--output-tokens", "10")
    sent = [row["index"] for row in rows(tmp_path)]
    assert sorted(sent) == list(range(len(sent)))
    assert {row["generator"] for row in rows(tmp_path)} == {0, 1}
    assert engine.state()["served"] == len(sent)
    assert found["failures"] == 0
    assert found["server"]["agree"] is True


BROKEN = ("die_mid_stream", "close_mid_stream", "eof_without_done", "error_event", "bad_chunk", "role_only", "done_only", "error_500",
          "die_before_first")  # fmt: skip


@pytest.mark.parametrize("mode", BROKEN)
def test_no_broken_answer_passes_for_a_good_one(fake_engine: Engines, tmp_path: Path, mode: str) -> None:
    engine = fake_engine(itl_s=0.002)
    engine.fault(mode)
    found = run(engine.url, tmp_path, "--profile", "chat", "--users", "1", "--think", "0.2", code=1, seconds=2)
    assert found["ok"] == 0
    assert found["failures"] == found["requests"] > 0
    assert found["goodput"] == 0


def test_a_stalled_stream_ends_at_its_timeout_and_a_killed_one_is_told(fake_engine: Engines, tmp_path: Path) -> None:
    engine = fake_engine(itl_s=0.002)
    engine.fault("stall", times=1)
    found = run(engine.url, tmp_path, "--profile", "chat", "--users", "1", "--think", "0.1", "--timeout", "1")
    assert found["failures"] == 1
    assert "no whole answer in 1 s" in found["errors"][0]["reason"]
    engine.set(itl_s=1.0)
    found = run(engine.url, tmp_path, "--profile", "chat", "--rate", "2", "--drain", "1", code=1)
    assert found["unfinished"] == found["requests"] > 0


def test_clients_that_leave_close_the_connection(fake_engine: Engines, tmp_path: Path) -> None:
    engine = fake_engine(itl_s=0.02)
    found = run(engine.url, tmp_path, "--profile", "chat", "--weights", "canceller=1", "--users", "2")
    assert found["cancelled"] == found["requests"] > 0
    time.sleep(0.3)
    assert engine.state()["running"] == 0


def test_a_sweep_and_what_compare_says_of_it(fake_engine: Engines, tmp_path: Path) -> None:
    engine = fake_engine(ttft_s=0.02, itl_s=0.002)
    loadtest("sweep", "--url", engine.url, "--profile", "chat", "--rates", "4,8", "--duration", "2", "--most-users", "4",
             "--output-tokens", "8", "--out", str(tmp_path))  # fmt: skip
    found = json.loads((tmp_path / "result.json").read_text())
    jsonschema.validate(found, SCHEMA)
    assert [point["label"] for point in found["sweep"]["points"]] == ["synchronous", "throughput", "rate", "rate"]
    assert found["sweep"]["knee_rps"] is not None
    assert "0.0%" in loadtest("compare", str(tmp_path / "result.json"), str(tmp_path / "result.json"))


def test_bad_input_is_a_sentence(fake_engine: Engines, tmp_path: Path) -> None:
    engine = fake_engine()
    out = ("--out", str(tmp_path / "x"))
    assert "No server answers" in loadtest("run", "--url", "http://127.0.0.1:9", *out, code=2)
    assert "serves no model 'nope'. It serves: tiny." in loadtest("run", "--url", engine.url, "--model", "nope", *out, code=2)
    assert "is not a URL" in loadtest("run", "--url", "127.0.0.1", *out, code=2)
    assert "can't be read" in loadtest("run", "--url", engine.url, "--trace", "/no/such", *out, code=2)
    assert "key file" in loadtest("run", "--url", engine.url, "--api-key-file", "/no/such", *out, code=2)
    (tmp_path / "file").write_text("")
    loadtest("run", "--url", engine.url, "--out", str(tmp_path / "file"), code=2)
    assert "no model for the profile" in loadtest("run", "--url", engine.url, "--profile", "image", *out, code=2)
    assert not (tmp_path / "x").exists()


@pytest.fixture
def master_and_worker(fake_engine: Engines) -> Iterator[tuple[FakeEngineProcess, str]]:
    """As the compose profile starts them: a master with its page, and a worker."""
    from tests.e2e.stack import free_port

    engine, port, page = fake_engine(ttft_s=0.02, itl_s=0.002), free_port(), free_port()
    start = [str(PYTHON), "-m", "locust", "--locustfile", str(PROJECT / "loadtest" / "locustfile.py")]
    master = [*start, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port), "--web-host", "127.0.0.1",
              "--web-port", str(page), "--host", engine.url]  # fmt: skip
    worker = [*start, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port)]
    running = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/") for argv in (master, worker)]
    yield engine, f"http://127.0.0.1:{page}"
    for process in running:
        process.terminate()
        process.wait(10)


def test_master_and_worker_bring_a_report_to_the_page(master_and_worker: tuple[FakeEngineProcess, str]) -> None:
    engine, page = master_and_worker
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"{page}/stats/requests", timeout=2) as answer:
                if json.load(answer)["workers"]:
                    break
        except OSError:
            pass
        time.sleep(0.2)
    with urllib.request.urlopen(f"{page}/swarm", data=b"user_count=2&spawn_rate=2", timeout=5) as answer:
        assert json.load(answer)["success"]
    time.sleep(8)
    with urllib.request.urlopen(f"{page}/load-report", timeout=5) as answer:
        report = answer.read().decode()
    assert "<svg" in report
    assert "tiny" in report
    assert engine.state()["served"] > 5
