"""A deadline that passed in vain makes the worker check its engine: /health alone can't tell one that hangs."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

from services.gateway.fleet import Fleet
from services.wire.worker import WorkerState, WorkerStatus


class Worker:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fetch(self, method: str, path: str, timeout_s: float) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path}")
        said = WorkerStatus("p", "m", "c", "vllm", WorkerState.READY, 1.0)
        return (202, b"{}") if path == "/check" else (200, json.dumps(asdict(said)).encode())


async def test_a_doubted_engine_is_checked_once() -> None:
    worker = Worker()
    backend = SimpleNamespace(id="p", model_id="m", worker=worker, doubted=True, strikes=0, seen=True, status=None, state=WorkerState.READY,
                              reason=None, since_s=0.0, held_down_until_s=0.0, heard_s=0.0, heat=None, too_hot=False,
                              lane=SimpleNamespace(slots=1, hot_slots=None))
    fleet = Fleet((), lambda changed, ready: None, poll_s=1.0)
    await fleet._ask_worker(backend)
    await fleet._ask_worker(backend)
    assert worker.asked == ["POST /check", "GET /status", "GET /status"]
    assert backend.state is WorkerState.READY
