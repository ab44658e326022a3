"""The generated stack for a rig of four simulated cards, on real containers: up, asked, looked into."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.compose.engine import Engine, Images
from tests.compose.loading_times import loadings, overlapping
from tests.compose.rigs import IMAGE, LLM, four_cards
from tests.compose.running_stack import RunningStack, generate, secret_words, up
from tests.e2e.stack import get, post

pytestmark = pytest.mark.compose
WORKERS = [f"{LLM}-1", f"{LLM}-2", f"{IMAGE}-1", f"{IMAGE}-2"]
FETCHES = ["fetch-vllm-cpu", "fetch-llamacpp-cpu", "fetch-diffusion-cpu"]
TRY_TO_WRITE = """
    for d in / /opt/rigserve /opt/rigserve/services /etc /usr /var /home /weights /run /run/secrets; do
        touch $d/written 2>/dev/null && echo "wrote $d"
    done
    touch /tmp/written && echo tmp-ok
    echo '#!/bin/sh' > /tmp/run && chmod 755 /tmp/run && /tmp/run 2>/dev/null && echo "ran from /tmp"
    id -u; grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'
    find / -xdev -name docker.sock 2>/dev/null
    awk '$5 == "/" {print $6}' /proc/self/mountinfo
"""


@pytest.fixture(scope="module")
def stack(docker_engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    for environment in ("gateway", "vllm-cpu", "llamacpp-cpu", "diffusion-cpu"):
        images.reference(environment)
    with up(generate(docker_engine, tmp_path_factory.mktemp("rig") / "four", four_cards(), "--drain-s", "5")) as running:
        yield running


def test_all_services_are_healthy_and_every_card_has_its_own_worker(stack: RunningStack) -> None:
    assert stack.services() == sorted(["gateway", *WORKERS])
    assert {stack.inspect(service)["State"]["Health"]["Status"] for service in stack.services()} == {"healthy"}
    stack.wait_all_ready(10)
    found = {p: (e["engine"], e["status"]["card_id"]) for p, e in stack.placements().items()}
    assert found == {f"{LLM}-1": ("vllm", "sim-0"), f"{LLM}-2": ("llama.cpp", "sim-1"),
                     f"{IMAGE}-1": ("diffusers", "sim-2"), f"{IMAGE}-2": ("diffusers", "sim-3")}  # fmt: skip
    assert all(card["simulated"] for card in get(f"{stack.url}/v1/cards")["data"])


def test_one_shot_services_fetched_the_weights_into_the_volume(stack: RunningStack) -> None:
    for service in FETCHES:
        state = stack.inspect(service)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), service
        assert list(stack.inspect(service)["NetworkSettings"]["Networks"]) == [f"{stack.name}_egress"]
    kept = stack.inside(WORKERS[0], "find", "/weights", "-name", "manifest.json").split()
    assert {path.split("/")[3] for path in kept} >= {LLM}
    mounts = {m["Destination"]: (m["Type"], m["RW"]) for m in stack.inspect(WORKERS[0])["Mounts"]}
    assert mounts["/weights"] == ("volume", False)


def test_no_two_models_ever_loaded_at_once(stack: RunningStack) -> None:
    found = loadings(stack, WORKERS)
    assert [loading.service for loading in found] == WORKERS, "not in the plan's order"
    assert overlapping(found) == []


def test_chat_stream_and_images_through_the_published_port(stack: RunningStack) -> None:
    status, answer, _ = stack.chat(LLM)
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", LLM)
    status, answer, headers = post(f"{stack.url}/v1/images/generations",
                                   {"model": IMAGE, "prompt": "seven", "n": 2, "steps": 4, "response_format": "b64_json"})  # fmt: skip
    assert status == 200
    assert headers["x-rigserve-backend"] in WORKERS[2:]
    assert [base64.b64decode(one["b64_json"])[:8] for one in answer["data"]] == [b"\x89PNG\r\n\x1a\n"] * 2
    status, answer, _ = post(f"{stack.url}/v1/chat/completions", {"model": "gpt-9", "messages": [{"role": "user", "content": "hi"}]})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_the_unmodified_sdk(stack: RunningStack) -> None:
    with OpenAI(base_url=f"{stack.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        assert {model.id for model in client.models.list()} >= {LLM, IMAGE}
        messages = [{"role": "user", "content": "Say hello."}]
        chunks = list(client.chat.completions.create(model=LLM, messages=messages, max_tokens=8, stream=True,
                                                     stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))  # fmt: skip
        assert chunks[-1].usage.completion_tokens == 8
        assert chunks[-2].choices[0].finish_reason == "length"
        picture = client.images.generate(model=IMAGE, prompt="three", extra_body={"steps": 4}, response_format="b64_json")
        assert base64.b64decode(picture.data[0].b64_json)[:4] == b"\x89PNG"


def test_both_replicas_answer(stack: RunningStack) -> None:
    """vLLM and llama.cpp stand in for each other."""
    for placement in WORKERS[:2]:
        stack.answers_from(placement, LLM, 60)
    stack.wait_idle()


@pytest.mark.parametrize("service", ["gateway", *WORKERS])
def test_nothing_can_be_written_and_nobody_is_root(stack: RunningStack, service: str) -> None:
    said = stack.inside(service, "sh", "-c", TRY_TO_WRITE).split()
    none = "0000000000000000"
    assert said[:-1] == ["tmp-ok", "10001", f"CapPrm:{none}", f"CapEff:{none}", f"CapBnd:{none}", "NoNewPrivs:1"]
    assert said[-1].split(",")[0] == "ro", "the root file system"
    host = stack.inspect(service)["HostConfig"]
    assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"], host["Init"]) == (True, False, ["ALL"], True)
    assert 0 < host["PidsLimit"] <= 1024
    assert host["Memory"] > 0
    assert not any("docker.sock" in bind for bind in host["Binds"] or [])


def test_no_secret_is_in_an_environment_a_command_line_or_a_log(stack: RunningStack) -> None:
    stack.chat(LLM)
    secrets = secret_words(stack)
    assert set(secrets) == {*WORKERS, "grafana"}
    seen = {service: json.dumps(stack.inspect(service)) + str(stack.logs(service)) for service in [*stack.services(), *FETCHES]}
    for service in stack.services():
        everything = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"
        seen[service] += stack.inside(service, "sh", "-c", everything)
    assert not [(service, name) for service, text in seen.items() for name, word in secrets.items() if word in text]
    for service in WORKERS:  # each worker has its own word and no other's
        assert stack.inside(service, "ls", "/run/secrets").split() == [service]
    assert sorted(stack.inside("gateway", "ls", "/run/secrets").split()) == sorted(WORKERS)
    mode = stack.inside(WORKERS[0], "stat", "-c", "%a %u", f"/run/secrets/{WORKERS[0]}")
    assert mode == "400 10001"


def test_after_a_reboot_models_load_one_after_the_other_too(stack: RunningStack, docker_engine: Engine) -> None:
    """All containers start at once then, in no order; the lock that they share keeps their models apart. vLLM's is left alone: slow."""
    names = [stack.container(service) for service in WORKERS[1:]]
    since = stack.logs(WORKERS[1])[-1][0]
    docker_engine.docker("kill", *names)
    docker_engine.docker("start", *names)
    stack.wait_for("all are healthy again", lambda: {
        stack.inspect(service)["State"]["Health"]["Status"] for service in WORKERS[1:]} == {"healthy"}, 120)  # fmt: skip
    found = loadings(stack, WORKERS[1:], since)
    assert overlapping(found) == []
    waited = [service for service in WORKERS[1:] for stamp, text in stack.logs(service)
              if stamp > since and "waiting for another model to load" in text]  # fmt: skip
    assert len(set(waited)) == 2, "two of three started while another loaded"
    stack.wait_all_ready(10)


def test_compose_reads_the_files_without_a_word(stack: RunningStack, docker_engine: Engine) -> None:
    for profiles in (("cpu",), ("*",)):
        words = [word for profile in profiles for word in ("--profile", profile)]
        done = docker_engine.docker("compose", "-f", str(stack.file), *words, "config", "-q")
        assert (done.stdout, done.stderr) == ("", "")
