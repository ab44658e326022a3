"""Engines that die, and how a stack ends. Last by name: these break the shared stack for a while."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import IMAGE, LLM
from tests.e2e.stack import RIGSERVE, RunningStack, alive, descendants, start, stop

pytestmark = pytest.mark.engine
HELLO = [{"role": "user", "content": "Tell me a long story."}]


def test_killing_the_llm_engine(stack: RunningStack, client: OpenAI) -> None:
    before = stack.wait_for(LLM, "ready", 60)
    pid = before["status"]["engine_pid"]
    stream = client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
    next(stream)
    killed = time.monotonic()
    for process in {pid, *descendants(pid)}:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    while stack.placements[LLM]["state"] == "ready":
        assert time.monotonic() - killed < 5, "the dead engine still shows as ready after 5 s"
        time.sleep(0.1)
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=4)
    assert error.value.status_code in (502, 503)
    after = stack.wait_for(LLM, "ready", 180)
    assert after["status"]["engine_pid"] != pid
    assert after["status"]["restarts"] == before["status"]["restarts"] + 1
    assert client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=4).choices


def test_a_hung_engine_core_is_found_out(stack: RunningStack, client: OpenAI) -> None:
    """vLLM's port answers /health while its core is stopped; the request that waits in vain tells."""
    before = stack.wait_for(LLM, "ready", 60)["status"]
    cores = descendants(before["engine_pid"])
    assert cores, "vLLM's core runs in a process of its own"
    for process in cores:
        os.kill(process, signal.SIGSTOP)
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=4, timeout=200)
    assert error.value.status_code == 504
    until = time.monotonic() + 90
    while stack.placements[LLM]["status"]["restarts"] == before["restarts"]:
        assert time.monotonic() < until, "the hung engine is not restarted"
        time.sleep(0.2)
    stack.wait_for(LLM, "ready", 180)
    assert client.chat.completions.create(model=LLM, messages=HELLO, max_tokens=4).choices


def test_killing_the_image_engine(stack: RunningStack, client: OpenAI) -> None:
    before = stack.wait_for(IMAGE, "ready", 60)["status"]
    failed: list[openai.APIError] = []

    def ask() -> None:
        try:
            client.images.generate(model=IMAGE, prompt="seven", n=10, extra_body={"steps": 50})
        except openai.APIError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    os.kill(before["engine_pid"], signal.SIGKILL)
    asking.join(30)
    assert len(failed) == 1
    until = time.monotonic() + 5
    while stack.placements[IMAGE]["status"]["restarts"] == before["restarts"]:
        assert time.monotonic() < until, "the restart is not shown after 5 s"
        time.sleep(0.1)
    stack.wait_for(IMAGE, "ready", 60)
    assert client.images.generate(model=IMAGE, prompt="seven", extra_body={"steps": 4}).data


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_light_stack_starts_serves_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    running = start(tmp_path, "--engine", "llamacpp")
    with OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as light:
        answer = light.chat.completions.create(model=LLM, messages=HELLO, max_tokens=8, temperature=0)
        streamed = list(light.chat.completions.create(model=LLM, messages=HELLO, max_tokens=8, temperature=0, stream=True,
                                                      stream_options={"include_usage": True}))
    assert answer.usage.completion_tokens == 8
    assert streamed[-1].usage.completion_tokens == 8
    assert running.placements[LLM]["engine"] == "llama.cpp"
    assert stop(running, number) == set()


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    running = start(tmp_path, "--engine", "llamacpp")
    everyone = descendants(running.process.pid)
    running.process.kill()
    running.process.wait()
    until = time.monotonic() + 30
    while any(alive(pid) for pid in everyone):
        assert time.monotonic() < until, f"still running: {[p for p in everyone if alive(p)]}"
        time.sleep(0.2)


def test_a_taken_port_is_said_before_anything_starts(stack: RunningStack) -> None:
    port = stack.url.rsplit(":", 1)[1]
    ended = subprocess.run([RIGSERVE, "serve", "--port", port], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr
