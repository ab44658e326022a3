"""Streams: each step is told, errors keep their status while they can, and a client that leaves stops the job."""

from __future__ import annotations

import asyncio
import base64
import json

from services.diffusion.app import make_app
from services.diffusion.contract import DeviceLost, OutOfMemory
from services.diffusion.jobs import JobQueue
from services.diffusion.metrics import Metrics
from tests.diffusion.conftest import ABLE, SETTINGS, TOKEN, Connect
from tests.diffusion.painter import PNG, FakePainter
from tests.diffusion.test_edits import body as edit_body
from tests.diffusion.test_jobs import until

ROUTE = "/v1/images/generations"


def events(text: str) -> list[tuple[str | None, object]]:
    found: list[tuple[str | None, object]] = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event"), lines["data"] if lines["data"] == "[DONE]" else json.loads(lines["data"])))
    return found


async def test_steps_partial_images_and_the_picture(connect: Connect) -> None:
    answer = await connect(FakePainter()).post(ROUTE, json={"prompt": "x", "steps": 3, "seed": 9, "stream": True, "partial_images": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    kinds = [kind for kind, _ in told]
    progress, partial, completed = (f"image_generation.{word}" for word in ("progress", "partial_image", "completed"))
    assert kinds == [progress, partial, progress, partial, progress, completed, None]
    payloads = [payload for _, payload in told[:-1]]
    assert [p["type"] for p in payloads] == kinds[:-1]
    assert [(p["step"], p["steps"]) for p in payloads if p["type"] == progress] == [(1, 3), (2, 3), (3, 3)]
    assert [p["partial_image_index"] for p in payloads if p["type"] == partial] == [0, 1]
    last = payloads[-1]
    assert base64.b64decode(last["b64_json"]) == PNG
    assert {"created_at", "size", "output_format", "quality", "background", "usage"} < set(last)
    assert (last["seed"], last["usage"]["steps"], told[-1][1]) == (9, 3, "[DONE]")


async def test_an_edit_s_events_are_called_so_and_each_picture_has_one(connect: Connect) -> None:
    answer = await connect(FakePainter()).post("/v1/images/edits", content=edit_body(n=2, steps=2, stream=True))
    kinds = [kind for kind, _ in events(answer.text)]
    assert kinds == ["image_edit.progress"] * 2 + ["image_edit.completed"] * 2 + [None]


async def test_an_error_before_the_first_step_has_its_own_status(connect: Connect) -> None:
    client = connect(FakePainter(failures=[OutOfMemory("on cuda:0"), DeviceLost("gone")]))
    first = await client.post(ROUTE, json={"prompt": "x", "stream": True})
    assert (first.status_code, first.json()["error"]["code"]) == (500, "backend_out_of_memory")
    second = await client.post(ROUTE, json={"prompt": "x", "stream": True})
    assert (second.status_code, second.json()["error"]["code"], client.lost) == (502, "backend_failed", [True])


async def test_an_error_after_it_ends_the_stream_and_the_next_job_works(connect: Connect) -> None:
    painter = FakePainter()
    painter.dies_at = 2
    client = connect(painter)
    told = events((await client.post(ROUTE, json={"prompt": "x", "steps": 5, "stream": True})).text)
    assert [kind for kind, _ in told] == ["image_generation.progress"] * 2 + [None]
    assert told[-1][1]["error"]["code"] == "backend_out_of_memory"
    painter.dies_at = None
    assert (await client.post(ROUTE, json={"prompt": "x"})).status_code == 200


async def test_a_full_queue_is_a_429_for_streams_too(connect: Connect) -> None:
    painter = FakePainter(gate_open=False)
    client = connect(painter)
    jobs = [asyncio.create_task(client.post(ROUTE, json={"prompt": "x", "stream": True})) for _ in range(3)]
    await until(lambda: client.queue._jobs == 3)
    assert (await client.post(ROUTE, json={"prompt": "x", "stream": True})).status_code == 429
    painter.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*jobs)] == [200] * 3


async def test_a_client_that_leaves_a_stream_stops_the_job_at_the_next_step() -> None:
    painter = FakePainter()
    painter.stands_after = 1
    queue = JobQueue(painter, Metrics(), max_waiting_jobs=1)
    app = make_app(SETTINGS, ABLE, queue, lambda: None)
    left = asyncio.Event()
    asked = json.dumps({"prompt": "x", "steps": 50, "stream": True}).encode()
    messages = iter([{"type": "http.request", "body": asked, "more_body": False}])
    told = 0

    async def receive():
        if (message := next(messages, None)) is not None:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        nonlocal told
        told += bool(message.get("body"))
        if told == 1:  # the first step has been told
            left.set()

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": ROUTE, "raw_path": ROUTE.encode(),
             "query_string": b"", "scheme": "http", "root_path": "", "client": None, "server": ("engine", 80),
             "headers": [(b"authorization", f"Bearer {TOKEN}".encode())]}
    async with asyncio.timeout(3):
        await app(scope, receive, send)
        await until(lambda: painter.stopped == 1)
    assert painter.steps_run == 1
    await until(lambda: queue._jobs == 0)
    queue.close()
