"""The gateways that are compared: how each is started in front of one mock engine. Peers live in environments of their own.

`make bench` installs what it can; a peer that can't be installed is left out of the table, and the table says so.
"""

from __future__ import annotations

import os
import shutil
import site
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
VENVS = Path(os.environ.get("RIGSERVE_VENVS", PROJECT / ".venvs"))
MODEL = "bench-model"
SYSTEM_PYTHON = "/usr/bin/python3"
DISTRIBUTION = "rigserve, the distribution's Python"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`command(port, engine_port, folder)` is the argv; `package` is what pip installs into its own environment, None for no pip.
    `paced_streams`: how many it can hold at one chunk per 50 ms each."""

    name: str
    command: Callable[[int, int, Path], list[str]]
    package: str | None = None
    paced_streams: int = 512

    def ready(self) -> str | None:
        """None when it can be started, else why not."""
        if self.package is not None:
            return install(self.name, self.package)
        if self.name == "nginx" and shutil.which("nginx", path=_PATH) is None:
            return "nginx is not installed (Debian: apt install nginx-light)"
        if self.name == DISTRIBUTION and not same_minor_version(SYSTEM_PYTHON):
            return f"{SYSTEM_PYTHON} is not a Python {sys.version_info.major}.{sys.version_info.minor}"
        return None


_PATH = os.environ.get("PATH", "") + ":/usr/sbin"


def install(name: str, package: str) -> str | None:
    venv = VENVS / f"bench-{name}"
    done = venv / ".installed"
    if done.is_file() and done.read_text() == package:
        return None
    print(f"installing {package} for the comparison ...", flush=True)
    steps = ([sys.executable, "-m", "venv", str(venv)], [str(venv / "bin/pip"), "install", "-q", "--disable-pip-version-check", package])
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, timeout=900, check=False)
        if result.returncode:
            return f"pip could not install {package}: {(result.stderr.strip().splitlines() or ['no reason given'])[-1][:200]}"
    done.write_text(package)
    return None


def _bin(name: str, program: str) -> str:
    return str(VENVS / f"bench-{name}" / "bin" / program)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


GATEWAY = ("-m", "services.gateway", "--limit-backend-slots", "1024", "--limit-queue", "4096")


def _rigserve(port: int, engine_port: int, folder: Path) -> list[str]:
    return [sys.executable, *GATEWAY, "--backend", f"{MODEL}=http://127.0.0.1:{engine_port}", "--port", str(port)]


def _rigserve_distribution(port: int, engine_port: int, folder: Path) -> list[str]:
    """The same code and packages on the distribution's Python, which is built with profile-guided optimisation; many others are not."""
    _, *arguments = _rigserve(port, engine_port, folder)
    return ["/usr/bin/env", f"PYTHONPATH={site.getsitepackages()[0]}", SYSTEM_PYTHON, *arguments]


def same_minor_version(python: str) -> bool:
    """Whether that interpreter can load the packages of this environment."""
    asked = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.split()
    except OSError:
        return False
    return said == [str(part) for part in sys.version_info[:2]]


def _nginx(port: int, engine_port: int, folder: Path) -> list[str]:
    conf = folder / "nginx.conf"
    conf.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; keepalive_requests 1000000;\n"
        f"upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 1024; keepalive_requests 1000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=2048;\n"
        'location / { proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    return [shutil.which("nginx", path=_PATH) or "nginx", "-c", str(conf), "-p", str(folder)]


def _router(name: str, program: Sequence[str]) -> Callable[[int, int, Path], list[str]]:
    def command(port: int, engine_port: int, folder: Path) -> list[str]:
        return [
            _bin(name, program[0]), *program[1:], "--worker-urls", f"http://127.0.0.1:{engine_port}", "--policy", "round_robin",
            "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), "--log-level", "error",
        ]  # fmt: skip

    return command


def _litellm(port: int, engine_port: int, folder: Path) -> list[str]:
    conf = folder / "litellm.yaml"
    conf.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: http://127.0.0.1:{engine_port}/v1\n      api_key: none\n"
        "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"
    )
    return [_bin("litellm", "litellm"), "--config", str(conf), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]


CONTESTANTS: tuple[Contestant, ...] = (
    Contestant("rigserve", _rigserve),
    Contestant(DISTRIBUTION, _rigserve_distribution),
    Contestant("nginx", _nginx),
    Contestant("vllm-router", _router("vllm-router", ("vllm-router",)), "vllm-router==0.1.17"),
    Contestant("sglang-router", _router("sglang-router", ("python", "-m", "sglang_router.launch_router")), "sglang-router==0.3.2"),
    Contestant("smg", _router("smg", ("smg", "launch")), "smg==1.13.0"),
    Contestant("litellm", _litellm, "litellm[proxy]==1.106.2", paced_streams=32),
)
