"""A Painter without torch: it does what a test tells it to, step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from services.diffusion.contract import ImageJob, JobStopped, Outcome, OutOfMemory, Picture, Step

PNG = b"\x89PNG\r\n\x1a\n-not-really"


class FakePainter:
    """`open_gate` lets steps run; shut, a job waits in its first step until the gate opens or it is told to stop.

    `failures` are raised one per job, first job first; None stands for a job that works.
    """

    def __init__(self, *, failures: list[Exception | None] | None = None, gate_open: bool = True) -> None:
        self.gate = threading.Event()
        if gate_open:
            self.gate.set()
        self.failures = failures or []
        self.dies_at: int | None = None
        self.stands_after: int | None = None  # after that many steps it goes on only when it is told to stop
        self.jobs: list[ImageJob] = []
        self.steps_run = 0
        self.stopped = 0
        self.running = 0
        self.most_at_once = 0

    def generate(self, job: ImageJob, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> Outcome:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self.jobs.append(job)
        try:
            return self._generate(job, on_step, should_stop)
        finally:
            self.running -= 1

    def _generate(self, job: ImageJob, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> Outcome:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        for number in range(job.steps):
            while (not self.gate.is_set() or number == self.stands_after) and not should_stop():
                time.sleep(0.001)
            if should_stop():
                self.stopped += 1
                raise JobStopped
            self.steps_run += 1
            shown = job.output.partial_images and number + 1 < job.steps
            on_step(Step(0.01, number + 1, job.steps, Picture(PNG, job.seeds[0]) if shown else None))
            if self.dies_at == number + 1:
                raise OutOfMemory("on cuda:0")
        pictures = tuple(Picture(PNG, seed) for seed in job.seeds)
        return Outcome(pictures, len(job.seeds) * job.steps, 0.001, 0.02, 0.003, 0.024, 123_000_000)
