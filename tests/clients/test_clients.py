"""The code of docs/guides/clients.md, run as it stands there by the clients themselves, against a gateway over fake engines.

Their environments: `make clients-env` (.venvs/clients, tests/clients/node_modules). Without Node the one for openai-node is skipped, unless
RIGSERVE_REQUIRE_CLIENTS=1. Each must list the models, and print an answer twice: whole, and streamed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.marks import PROJECT
from tests.gateway.rig import Rig, start_rig

pytestmark = pytest.mark.clients
PAGE = PROJECT / "docs" / "guides" / "clients.md"
PYTHON = PROJECT / ".venvs" / "clients" / "bin" / "python"
MODULES = Path(__file__).parent / "node_modules"
ANSWER = "w0 w1 w2 w3 w4"  # what the fake engine says to max_tokens 5
SHOWN = re.compile(r"<!-- client: ([a-z-]+) -->\n```\w+\n(.*?)```", re.DOTALL)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CODE: dict[str, str] = dict(SHOWN.findall(PAGE.read_text(encoding="utf8")))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = start_rig(tmp_path_factory.mktemp("clients"))
    try:
        rig.gateway.wait_ready()
        yield rig
    finally:
        rig.stop()


def run(client: str, rig: Rig, folder: Path, argv: list[str]) -> str:
    """What the code, the last argument, printed in an empty folder, without proxies."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    environment |= {"HOME": str(folder), "LLM_USER_PATH": str(folder), "LANGSMITH_TRACING": "false", "PYTHONDONTWRITEBYTECODE": "1",
                    "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"}  # fmt: skip
    code = CODE[client].replace("http://127.0.0.1:8000", rig.gateway.url)
    done = subprocess.run([*argv, code], stdin=subprocess.DEVNULL, cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def require(there: bool) -> None:
    assert there, "the clients' environments are missing: run `make clients`"


def asked(rig: Rig) -> list[bool]:
    """Whether each question since the start of the test was to be streamed."""
    return [bool(one["body"].get("stream")) for one in rig.engines["llm-vllm"].state()["seen"] if one["path"] == "/v1/chat/completions"]


@pytest.fixture(autouse=True)
def _as_new(rig: Rig) -> None:
    for engine in rig.engines.values():
        engine.reset()


def test_the_page_shows_these_clients() -> None:
    assert set(CODE) == {"curl", "openai-python", "openai-node", "langchain", "llm"}


def test_curl(rig: Rig, tmp_path: Path) -> None:
    printed = run("curl", rig, tmp_path, ["bash", "-euo", "pipefail", "-c"])
    assert '"id":"smollm2-135m-instruct"' in printed.replace(" ", "")
    assert f'"content":"{ANSWER}"' in printed.replace('": ', '":')
    assert printed.rstrip().endswith("data: [DONE]")
    assert asked(rig) == [False, True]


def test_openai_python(rig: Rig, tmp_path: Path) -> None:
    printed = run("openai-python", rig, tmp_path, [sys.executable, "-c"]).splitlines()
    assert "smollm2-135m-instruct" in printed[0]
    assert [line.strip() for line in printed[1:]] == [ANSWER, ANSWER]
    assert asked(rig) == [False, True]
    assert (tmp_path / "seven.png").read_bytes()[:4] == b"\x89PNG"


def test_openai_node(rig: Rig, tmp_path: Path) -> None:
    if shutil.which("node") is None and not os.environ.get("RIGSERVE_REQUIRE_CLIENTS"):
        pytest.skip("no Node here; RIGSERVE_REQUIRE_CLIENTS=1 makes this a failure")
    require((MODULES / "openai").is_dir())
    (tmp_path / "node_modules").symlink_to(MODULES)
    printed = run("openai-node", rig, tmp_path, ["node", "--input-type=module", "-e"]).splitlines()
    assert "smollm2-135m-instruct" in printed
    assert [line.strip() for line in printed[-2:]] == [ANSWER, ANSWER]
    assert asked(rig) == [False, True]


def test_langchain(rig: Rig, tmp_path: Path) -> None:
    require(PYTHON.exists())
    printed = run("langchain", rig, tmp_path, [str(PYTHON), "-c"]).splitlines()
    assert [line.strip() for line in printed] == [ANSWER, ANSWER]
    assert asked(rig) == [False, True]


def test_llm(rig: Rig, tmp_path: Path) -> None:
    require(PYTHON.exists())
    printed = run("llm", rig, tmp_path, ["bash", "-euo", "pipefail", "-c"])
    assert "OpenAI Chat: rig" in printed
    assert [line.strip() for line in printed.splitlines()[-2:]] == [ANSWER, ANSWER]
    assert asked(rig) == [False, True]
