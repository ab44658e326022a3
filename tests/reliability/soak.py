"""python -m tests.reliability.soak --minutes 30: mixed traffic on fake engines, by both ways; memory, descriptors and threads must be flat.

Half of the clients stream, some leave in the middle, some send junk, engines fail now and then, the configuration is read again, somebody
scrapes. Exit code 1 when something has grown, a seat is still taken at the end, or an answer was a 500.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import fmean

import httpx

from tests.gateway.rig import CHAT, chat, resident_kib, until
from tests.reliability.stack import WAYS, Stack, reset, send

CLIENTS = 6
SAMPLE_S = 2.0
MOST_GROWTH_KIB = 4096
FAULTS = ("die_mid_stream", "die_before_first", "stall", "eof_without_done", "bad_chunk", "error_500", "half_utf8")


class Soak:
    """The traffic on one gateway. `statuses`: what was answered; `samples`: (KiB, descriptors, threads) as time goes by."""

    def __init__(self, folder: Path, way: str) -> None:
        folder.mkdir()
        self.stack = Stack(folder, way, "--limit-queue=64", "--limit-backend-slots=32")
        self.way = way
        self.statuses: Counter[int] = Counter()
        self.samples: list[tuple[int, int, int]] = []
        self.over = threading.Event()

    def client(self, number: int) -> None:
        """One client, until it is over."""
        dice = random.Random(number)
        with httpx.Client(base_url=self.stack.gateway.url, timeout=30) as http:
            while not self.over.is_set():
                try:
                    self.statuses[self.one(http, dice)] += 1
                except (httpx.HTTPError, OSError):
                    self.statuses[0] += 1
                time.sleep(0.005)

    def one(self, http: httpx.Client, dice: random.Random) -> int:
        what, model = dice.random(), dice.choice(("solo", "twin"))
        if what < 0.05:
            return http.get("/metrics").status_code
        if what < 0.1:
            return http.post(CHAT, content=dice.randbytes(dice.randrange(200))).status_code
        if what < 0.15:
            return http.post(CHAT, json=chat(f"unknown-{dice.randrange(10**9)}")).status_code
        if what < 0.25:
            leaving = send(self.stack.gateway, chat(model, stream=True, max_tokens=200))
            time.sleep(dice.random() * 0.05)
            reset(leaving)
            return 499
        body = chat(model, max_tokens=dice.randrange(1, 60), stream=what < 0.65)
        with http.stream("POST", CHAT, json=body) as answer:
            for _ in answer.iter_bytes():
                pass
            return answer.status_code

    def disturb(self) -> None:
        """Engines fail one at a time, the configuration is read again; and what the gateway holds is looked at."""
        dice = random.Random(7)
        while not self.over.wait(SAMPLE_S):
            engine = dice.choice(self.stack.engines)
            engine.fault(dice.choice(FAULTS), times=2, after_tokens=2)
            self.stack.gateway.process.send_signal(signal.SIGHUP)
            self.samples.append(held(self.stack))

    def run(self, seconds: float) -> None:
        threads = [threading.Thread(target=self.client, args=(number,)) for number in range(CLIENTS)]
        threads.append(threading.Thread(target=self.disturb))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in threads:
            thread.join()

    def verdict(self) -> list[str]:
        """What is wrong; nothing when all is flat. The second third against the last one: the first is warming up."""
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[-third:]
        faults = []
        grown = [fmean(s[i] for s in last) - fmean(s[i] for s in middle) for i in range(3)]
        if grown[0] > MOST_GROWTH_KIB:
            faults.append(f"memory grew by {grown[0]:.0f} KiB")
        if grown[1] > 20 or grown[2] > 2:
            faults.append(f"descriptors grew by {grown[1]:.1f}, threads by {grown[2]:.1f}")
        if self.statuses[500]:
            faults.append(f"{self.statuses[500]} answers were 500")
        try:
            until(lambda: self.stack.gateway.seats() == 0, "all seats back to 0", 10)
        except AssertionError as error:
            faults.append(str(error))
        print(f"{self.way}: {sum(self.statuses.values())} requests {dict(sorted(self.statuses.items()))}; resident KiB"
              f" {self.samples[third][0]} after a third, {self.samples[-1][0]} at the end; descriptors {middle[-1][1]} and {last[-1][1]},"
              f" at rest {held(self.stack)[1]}; threads {last[-1][2]}; {'; '.join(faults) or 'flat'}", flush=True)  # fmt: skip
        return faults


def held(stack: Stack) -> tuple[int, int, int]:
    process = Path(f"/proc/{stack.gateway.process.pid}")
    return resident_kib(stack.gateway), len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    given = parser.parse_args()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            soak = Soak(Path(folder) / way, way)
            try:
                soak.run(given.minutes * 60 / len(WAYS))
                faults += soak.verdict()
            finally:
                soak.stack.stop()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
