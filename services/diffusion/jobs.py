"""One job at a time, in the order they came, each given up as soon as nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from services.diffusion.contract import DeviceLost, ImageJob, JobStopped, Outcome, OutOfMemory, Painter, Step
from services.diffusion.metrics import Metrics
from services.wire.errors import QueueFull


class JobQueue:
    """A bounded FIFO before one worker thread; the event loop stays free, so /health answers while a job runs.

    Cancelling a task that waits in `run` takes its job out of the queue, or stops it at its next denoise step when it runs already.
    `stop` does the same to every job, for an engine that is told to end.
    """

    def __init__(self, painter: Painter, metrics: Metrics, *, max_waiting_jobs: int) -> None:
        self._painter = painter
        self.metrics = metrics
        self._max_jobs = max_waiting_jobs + 1
        self._jobs = 0
        self._turn = asyncio.Lock()  # wakes its waiters in the order they came
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="painter")
        self._typical_s: float | None = None
        self._running: threading.Event | None = None  # set it to stop the job that runs
        self._stopping = False
        self.lost: str | None = None  # why no job can work any more

    async def run(self, job: ImageJob, on_step: Callable[[Step], None] | None = None) -> Outcome:
        """The job's outcome once its turn has come and gone. `on_step` is called in the event loop.

        Raises QueueFull at once, with the seconds after which a place should be free; JobStopped when `stop` ended it; otherwise what
        Painter.generate raises.
        """
        if self._jobs >= self._max_jobs:
            wait_s = self._typical_s or 1.0
            raise QueueFull(f"{self._jobs} image jobs run or wait here already. Try again in {wait_s:.0f} s.", retry_after_s=wait_s)
        self._jobs += 1
        self.metrics.queue_depth.inc()
        try:
            async with self._turn:
                return await self._paint(job, on_step)
        finally:
            self._jobs -= 1
            self.metrics.queue_depth.dec()

    async def _paint(self, job: ImageJob, on_step: Callable[[Step], None] | None) -> Outcome:
        if self._stopping:
            raise JobStopped
        loop = asyncio.get_running_loop()
        stop = self._running = threading.Event()

        def stepped(step: Step) -> None:
            self.metrics.step_s.observe(step.seconds)
            if on_step is not None:
                loop.call_soon_threadsafe(on_step, step)

        painting = loop.run_in_executor(self._thread, self._painter.generate, job, stepped, stop.is_set)
        try:
            outcome = await asyncio.shield(painting)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({painting})  # the turn is kept until the thread has really let go of the model
            self.metrics.stopped.inc()
            if isinstance(painting.exception(), DeviceLost):
                self.lost = str(painting.exception())
            raise
        except OutOfMemory:
            self.metrics.out_of_memory.inc()
            raise
        except DeviceLost as error:
            self.lost = str(error)
            raise
        self.metrics.count(outcome)
        self._typical_s = outcome.total_s if self._typical_s is None else 0.7 * self._typical_s + 0.3 * outcome.total_s
        return outcome

    def stop(self) -> None:
        """Take no more jobs, give up those that wait, and stop the running one at its next step."""
        self._stopping = True
        if self._running is not None:
            self._running.set()

    def close(self) -> None:
        """Let the worker thread end; no job may be waiting."""
        self._thread.shutdown(wait=False, cancel_futures=True)
