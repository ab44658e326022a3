"""Measure what a running stack costs the host and write docs/footprint.md: `make footprint`. Not a test; asserts nothing."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from openai import OpenAI

from services.hardware.detect import detect
from services.hardware.memory import tree_resident_bytes
from tests.e2e.conftest import IMAGE, LLM
from tests.e2e.stack import PROJECT, RunningStack, descendants, start, stop

PAGE = PROJECT / "docs" / "footprint.md"


def mib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 2**20:.0f}"


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def use_it(stack: RunningStack) -> None:
    """Some traffic, so that what is measured is a stack that has worked."""
    with OpenAI(base_url=f"{stack.url}/v1", api_key="any", timeout=120) as client:
        for _ in range(5):
            client.chat.completions.create(model=LLM, messages=[{"role": "user", "content": "Count to fifty."}], max_tokens=100)
        client.images.generate(model=IMAGE, prompt="a photo of the digit seven", n=10)


def rows(stack: RunningStack) -> list[tuple[str, str, str, str]]:
    """(process, PSS MiB, peak MiB seen by the worker, bill MiB)."""
    found = []
    for pid in [stack.process.pid, *sorted(descendants(stack.process.pid))]:
        command = command_of(pid)
        if "services.gateway" in command:
            found.append(("gateway", mib(tree_resident_bytes(pid)), "", ""))
        elif pid == stack.process.pid:
            own = Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]
            found.append(("supervisor (`rigserve serve`)", mib(int(own) * 1024), "", ""))
    for model, placement in stack.placements.items():
        status, engine = placement["status"], placement["engine"]
        found.append((f"worker of {model}", mib(status["worker_resident_bytes"]), "", ""))
        found.append((f"engine of {model}: {engine}", mib(status["resident_bytes"]), mib(status["peak_bytes"]),
                      mib(placement["bill"]["total_bytes"])))
    return found


def measure(title: str, folder: Path, *arguments: str) -> list[str]:
    stop(start(folder, *arguments))  # the first start may install; the second is what a user waits for
    stack = start(folder, *arguments)
    use_it(stack)
    time.sleep(2)
    command = " ".join(["rigserve serve", *arguments])
    table = [f"## {title}", "", f"`{command}`: ready {stack.ready_s:.1f} s after the command (second start).", "",
             "| process | now, MiB | peak, MiB | bill, MiB |", "|---|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in rows(stack)]
    stop(stack)
    return [*table, ""]


def main() -> None:
    host = detect().host
    lines = ["# What a stack costs the host", "",
             f"Measured {date.today().isoformat()} by `make footprint` on {host.cpu_model}, {host.cpu_count} CPUs, "
             f"{(host.ram_bytes or 0) / 2**30:.0f} GiB RAM, Python {platform.python_version()}, no GPU: one simulated CPU card, so the "
             "engines' figures hold the model, the KV cache and the runtime alike. PSS of each process tree after five chats "
             "and ten images; the bill is what the plan reserved.", ""]
    with tempfile.TemporaryDirectory() as folder:
        lines += measure("vLLM + diffusers (the default)", Path(folder))
        lines += measure("llama.cpp + diffusers (ENGINE=llamacpp)", Path(folder), "--engine", "llamacpp")
    PAGE.write_text("\n".join(lines), encoding="utf8")
    sys.stdout.write(f"written: {PAGE.relative_to(PROJECT)}\n")


if __name__ == "__main__":
    main()
