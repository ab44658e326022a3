"""`make bench`: rigserve's gateway beside nginx and other routers, in one run, interleaved. Writes docs/performance.md.

Core 0 runs the gateway under test, core 1 the mock engine and the load generator. What is compared is the CPU time of the gateway's own
process tree per request and per streamed chunk (the kernel's nanoseconds): wall-clock figures of a shared machine move by a factor of two
between rounds, CPU time by a tenth. Every round measures every contestant once, so that they share the machine's moods.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.bench import load, meters
from tests.bench.contestants import CONTESTANTS, Contestant, free_port
from tests.bench.report import write_report

PROJECT = Path(__file__).resolve().parents[2]
GATEWAY_CORE, LOAD_CORE = 0, 1
CHUNKS, INTERVAL_S = 80, 0.05
PACED_STREAMS, TTFT_STREAMS = 512, 64


@dataclass(slots=True)
class Figures:
    """One contestant's medians are taken over rounds: name of the figure -> one value a round."""

    name: str
    missing: str | None = None
    values: dict[str, list[float]] = field(default_factory=dict)
    problems: set[str] = field(default_factory=set)

    def add(self, figure: str, value: float | None) -> None:
        if value is not None:
            self.values.setdefault(figure, []).append(value)

    def median(self, figure: str) -> float | None:
        found = self.values.get(figure)
        return statistics.median(found) if found else None


def start(argv: list[str], core: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            argv, stdout=out, stderr=out, cwd=PROJECT, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    for number, patience_s in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience_s)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        else:
            break


async def answers(port: int, patience_s: float) -> bool:
    """Whether a request goes through within `patience_s`."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        tally = await load.run(port, 1, 0.0)
        if tally.done and not tally.errors:
            return True
        await asyncio.sleep(0.3)
    return False


def quantile(values: list[float], q: float) -> float | None:
    return statistics.quantiles(values, n=100, method="inclusive")[int(q * 100) - 1] if len(values) > 1 else None


async def measure(figures: Figures, port: int, pid: int | None, seconds: float, paced_streams: int = PACED_STREAMS) -> None:
    """One round of one contestant: plain at c=1 and c=32, flood streams, paced streams."""

    async def one(name: str, connections: int, **more: float | int) -> tuple[load.Tally, float]:
        before, begun = meters.cpu_s(pid) if pid else 0.0, time.perf_counter()
        tally = await load.run(port, connections, float(more.pop("seconds", seconds)), **more)  # type: ignore[arg-type]
        used = meters.cpu_s(pid) - before if pid else 0.0
        figures.problems |= {f"{name}: {problem}" for problem in tally.problems}
        figures.add(f"{name} errors", tally.errors + tally.truncated)
        figures.add(f"{name} per_s", (tally.chunks or tally.done) / (time.perf_counter() - begun))
        return tally, used

    tally, _ = await one("c1", 1)
    figures.add("c1 p50_s", quantile(tally.latency_s, 0.5))
    figures.add("c1 p99_s", quantile(tally.latency_s, 0.99))
    tally, used = await one("c32", 32)
    figures.add("c32 cpu_us", used / tally.done * 1e6 if pid and tally.done else None)
    tally, used = await one("flood", 64, words=CHUNKS, flood=True)
    figures.add("flood cpu_us", used / tally.chunks * 1e6 if pid and tally.chunks else None)
    tally, used = await one("ttft", min(TTFT_STREAMS, paced_streams), words=CHUNKS, pause_s=INTERVAL_S / TTFT_STREAMS, seconds=0.0)
    figures.add("ttft p50_s", quantile(tally.first_s, 0.5))
    watching = asyncio.create_task(_peak_mib(pid)) if pid else None
    tally, used = await one("paced", paced_streams, words=CHUNKS, pause_s=0.001, seconds=0.0)
    figures.add("paced cpu_us", used / tally.chunks * 1e6 if pid and tally.chunks else None)
    figures.add("paced ttft_s", quantile(tally.first_s, 0.5))
    if watching:
        watching.cancel()
        figures.add("resident_mib", max(await asyncio.gather(watching, return_exceptions=True), key=_number))  # type: ignore[arg-type]


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


async def _peak_mib(pid: int) -> float:
    peak = 0.0
    try:
        while True:
            peak = max(peak, meters.resident_mib(pid))
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return peak


async def visit(contestant: Contestant, figures: Figures, engine_port: int, folder: Path, seconds: float) -> None:
    """Start one contestant in front of the mock engine, measure, stop."""
    place, port = folder / contestant.name.replace(" ", "_"), free_port()
    place.mkdir(parents=True, exist_ok=True)
    process = start(contestant.command(port, engine_port, place), GATEWAY_CORE, place / "log")
    try:
        if not await answers(port, 90):
            tail = (place / "log").read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            figures.problems.add(f"did not answer: {tail[0][:160]}")
            return
        await load.run(port, 32, 1.0)  # warm: connections are open, code is compiled
        await measure(figures, port, process.pid, seconds, contestant.paced_streams)
    finally:
        stop(process)


async def main_async(given: argparse.Namespace) -> int:
    os.sched_setaffinity(0, {LOAD_CORE})
    chosen = [c for c in CONTESTANTS if not given.only or c.name in given.only.split(",")]
    table = {"direct": Figures("direct")} | {c.name: Figures(c.name) for c in chosen}
    for contestant in chosen:
        table[contestant.name].missing = contestant.ready()
    with tempfile.TemporaryDirectory(prefix="rigserve-bench-") as name:
        folder = Path(name)
        port = free_port()
        engine = start(
            [sys.executable, "-m", "tests.bench.mock_engine", "--port", str(port), "--chunks", str(CHUNKS), "--interval-ms",
             str(INTERVAL_S * 1000)], LOAD_CORE, folder / "engine.log",
        )  # fmt: skip
        try:
            if not await answers(port, 20):
                print((folder / "engine.log").read_text(), file=sys.stderr)
                return 1
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}: direct", flush=True)
                await measure(table["direct"], port, None, given.seconds)
                for contestant in chosen:
                    if table[contestant.name].missing is None:
                        print(f"round {number + 1} of {given.rounds}: {contestant.name}", flush=True)
                        await visit(contestant, table[contestant.name], port, folder, given.seconds)
        finally:
            stop(engine)
    print(write_report(table, given))
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="rigserve's gateway beside other gateways, in one run.",
        epilog="example: python -m tests.bench --only rigserve,nginx --rounds 2",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each closed-loop measurement")
    parser.add_argument("--only", help="contestants, with commas between")
    parser.add_argument("--out", type=Path, help="write the report here")
    raise SystemExit(uvloop.run(main_async(parser.parse_args())))


if __name__ == "__main__":
    main()
