"""Arguments, plan and endpoints: what can't work is said in one sentence before anything listens."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services.gateway.__main__ import parse_arguments, read_inputs
from services.gateway.backends import EndpointsError
from services.gateway.core import Gateway
from services.gateway.server import listen
from services.sizing.planfile import PlanFileError, dump_plan
from tests.fakes.process import PROJECT
from tests.gateway.rig import catalogue, few_models, rig_plan


@pytest.fixture(autouse=True)
def _few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.__main__.load_catalogue", lambda folder: catalogue())


def make(*argv: str) -> Gateway:
    return Gateway(read_inputs(parse_arguments(list(argv))))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(dump_plan(rig_plan()))
    return path


@pytest.mark.parametrize(("text", "said"), [
    ("", "can't be read"), ("[]", "can't be read"), ('{"endpoints": []}', "no endpoint for llm-vllm"),
    ('{"endpoints": [{"placement_id": "llm-vllm"}, {"placement_id": "llm-llamacpp"}, {"placement_id": "digits"}]}', "no usable engine_url"),
    ('{"endpoints": [{"placement_id": "llm-vllm", "token_file": "/no"}, {"placement_id": "llm-llamacpp"}, {"placement_id": "digits"}]}',
     "token file of llm-vllm can't be read"),
])
def test_bad_endpoints(plan: Path, tmp_path: Path, text: str, said: str) -> None:
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text(text)
    with pytest.raises(EndpointsError, match=said):
        make("--plan", str(plan), "--endpoints", str(endpoints))


def test_a_bad_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanFileError):
        make("--plan", str(tmp_path / "none.yaml"), "--endpoints", "x")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1", "127.0.0.1:9001", "http://", "http://a b", "http://u:p@h", "http://h/?q=1",
    "http://h:99999", "http://h:0", "http://h:-1", "http://h:port", "http://[::1", "http://é:1"])
def test_a_backend_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"^--backend m: .*write it like http://127\.0\.0\.1:9001$"):
        make("--backend", f"m={url}")


@pytest.mark.parametrize("url", ["http://user:hunter2@h:1", "http://hunter2@h", "http://user:hunter2/x@h", "ftp://u:hunter2@h",
    "u:hunter2@h", "http://u:hunter2@h:99999", "http://h/?key=hunter2", "http://h:99999?key=hunter2", "http://u:hunter2@[::1"])
def test_a_password_is_never_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^--backend m: the URL holds") as error:
        make("--backend", f"m={url}")
    assert "hunter2" not in str(error.value)
    if "@" in url:
        for text in (url.replace("=", ""), f"={url}"):  # MODEL= was forgotten
            with pytest.raises(SystemExit):
                parse_arguments(["--backend", text])
        assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--plan", "x"], ["--backend", "m"], ["--backend", "=http://h"],
    ["--backend", "m=h", "--poll-s", "nan"]])
def test_bad_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(argv)
    assert end.value.code == 2
    assert "rigserve gateway: error:" in capsys.readouterr().err


def test_a_port_that_is_taken() -> None:
    with closing(listen("127.0.0.1", 0)) as taken:
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", taken.getsockname()[1])


def test_exit_code_and_sentence_of_the_process(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "services.gateway", "--backend", "m=ftp://127.0.0.1:1", "--models-dir", str(few_models(tmp_path))]
    ended = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert ended.stderr.strip() == "rigserve gateway: --backend m: 'ftp://127.0.0.1:1' is not an http(s) URL; write it like http://127.0.0.1:9001"


def test_backends_and_plan_may_be_combined(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    endpoints = tmp_path / "endpoints.json"
    entries = [f'{{"placement_id": "{i}", "engine_url": "http://h:1", "worker_url": "http://h:2", "token_file": null}}'
               for i in ("llm-vllm", "llm-llamacpp", "digits")]
    endpoints.write_text(f'{{"endpoints": [{", ".join(entries)}]}}')
    gateway = make("--plan", str(plan), "--endpoints", str(endpoints), "--backend", "smollm2-135m-instruct=http://h:3/v1", "--backend", "x=http://h")
    served = gateway.directory.models["smollm2-135m-instruct"]
    assert [backend.id for backend in served.backends] == ["llm-vllm", "backend-0"]
    assert served.context_tokens is None, "one of its backends has an unknown context"
    assert [backend.upstream.origin.url for backend in served.backends] == ["http://h:1", "http://h:3"]
    assert gateway.directory.models["x"].backends[0].upstream.origin.port == 80
