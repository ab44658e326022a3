"""The queue: one at a time, in order, bounded, and nothing is painted for a client that has left."""

from __future__ import annotations

import asyncio
import json

import pytest

from services.diffusion.app import make_app
from services.diffusion.contract import DeviceLost, ImageJob, JobStopped
from services.diffusion.jobs import JobQueue
from services.diffusion.metrics import Metrics
from services.wire.errors import QueueFull
from tests.diffusion.conftest import ABLE, SETTINGS, TOKEN
from tests.diffusion.painter import FakePainter


def job(seed: int, steps: int = 2) -> ImageJob:
    return ImageJob("seven", None, 32, 32, steps, 3.0, (seed,))


async def until(condition) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


async def test_first_come_first_served_one_at_a_time() -> None:
    painter = FakePainter(gate_open=False)
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=5)
    tasks = []
    for seed in range(5):
        tasks.append(asyncio.create_task(queue.run(job(seed))))
        await asyncio.sleep(0)
    await until(lambda: painter.running)
    painter.gate.set()
    await asyncio.gather(*tasks)
    assert [j.seeds[0] for j in painter.jobs] == [0, 1, 2, 3, 4]
    assert painter.most_at_once == 1
    queue.close()


async def test_a_full_queue_says_when_to_come_back() -> None:
    painter = FakePainter(gate_open=False)
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=1)
    tasks = [asyncio.create_task(queue.run(job(seed))) for seed in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as error:
        await queue.run(job(9))
    assert int(error.value.headers()["retry-after"]) >= 1
    painter.gate.set()
    await asyncio.gather(*tasks)
    await queue.run(job(10))  # there is room again
    queue.close()


async def test_a_waiting_job_that_is_cancelled_never_starts() -> None:
    painter = FakePainter(gate_open=False)
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=5)
    first, second, third = (asyncio.create_task(queue.run(job(seed))) for seed in range(3))
    await until(lambda: painter.running)
    second.cancel()
    painter.gate.set()
    await asyncio.gather(first, third)
    assert second.cancelled()
    assert [j.seeds[0] for j in painter.jobs] == [0, 2]
    queue.close()


async def test_a_running_job_that_is_cancelled_stops_at_its_step_and_the_next_one_runs() -> None:
    painter, metrics = FakePainter(gate_open=False), Metrics()
    queue = JobQueue(painter, metrics, max_waiting_jobs=5)
    first = asyncio.create_task(queue.run(job(0, steps=1000)))
    await until(lambda: painter.running)
    second = asyncio.create_task(queue.run(job(1)))
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert (painter.stopped, painter.steps_run) == (1, 0)
    painter.gate.set()
    await second
    assert painter.most_at_once == 1
    assert b"rigserve_diffusion_stopped_total 1.0" in metrics.text()
    queue.close()


async def test_a_device_lost_under_a_job_nobody_waits_for_is_still_noticed() -> None:
    class Dying(FakePainter):
        def _generate(self, job, on_step, should_stop):
            while not should_stop():
                pass
            raise DeviceLost("fell off the bus")

    painter = Dying()
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=5)
    task = asyncio.create_task(queue.run(job(0)))
    await until(lambda: painter.running)
    task.cancel()
    await asyncio.wait({task})
    assert queue.lost == "fell off the bus"
    queue.close()


async def test_a_client_that_leaves_frees_the_engine_at_the_next_step() -> None:
    painter = FakePainter(gate_open=False)
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=1)
    app = make_app(SETTINGS, ABLE, queue, lambda: None)
    body = json.dumps({"prompt": "seven", "steps": 50}).encode()
    left = asyncio.Event()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        if (message := next(messages, None)) is not None:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/images/generations",
             "raw_path": b"/v1/images/generations", "query_string": b"", "scheme": "http", "root_path": "", "client": None,
             "server": ("engine", 80), "headers": [(b"authorization", f"Bearer {TOKEN}".encode())]}
    call = asyncio.create_task(app(scope, receive, send))
    await until(lambda: painter.running)
    left.set()
    async with asyncio.timeout(2):
        await call
    assert (painter.stopped, painter.steps_run) == (1, 0)
    assert sent[0]["status"] == 499
    queue.close()


async def test_an_engine_that_stops_gives_up_every_job_at_its_next_step() -> None:
    painter = FakePainter(gate_open=False)
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=5)
    tasks = [asyncio.create_task(queue.run(job(seed, steps=1000))) for seed in range(3)]
    await until(lambda: painter.running)
    queue.stop()
    async with asyncio.timeout(2):
        endings = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(e) for e in endings] == [JobStopped] * 3
    assert [j.seeds[0] for j in painter.jobs] == [0]
    with pytest.raises(JobStopped):
        await queue.run(job(9))
    queue.close()
