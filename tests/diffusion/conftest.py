"""The engine's application around a fake pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from services.diffusion.app import make_app
from services.diffusion.contract import Painter
from services.diffusion.folder import Abilities
from services.diffusion.jobs import JobQueue
from services.diffusion.metrics import Metrics
from services.diffusion.settings import Settings
from services.wire.images import SCHEDULERS

TOKEN = "s3cret-token"
SETTINGS = Settings(
    weights=Path("nowhere"), model_id="digits-sd", aliases=("digits",), token=TOKEN, max_width_px=64, max_height_px=48, max_batch=4,
    max_steps=50, native_px=32, default_steps=20, default_guidance_scale=3.0, max_waiting_jobs=2,
)
ABLE = Abilities(edits=True, masks=True, negative_prompt=True, guidance_limit=None, schedulers=SCHEDULERS, loras=("bold", "thin.v2"))
Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """connect(painter, **settings) -> a client that brings the token. `client.lost` counts on_device_lost, `client.queue` is the queue."""
    clients: list[httpx.AsyncClient] = []

    def make(painter: Painter, **changes: object) -> httpx.AsyncClient:
        lost: list[bool] = []
        settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
        queue = JobQueue(painter, Metrics(), max_waiting_jobs=settings.max_waiting_jobs)
        app = make_app(settings, ABLE, queue, lambda: lost.append(True))
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://engine",
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        client.lost = lost  # type: ignore[attr-defined]
        client.queue = queue  # type: ignore[attr-defined]
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.queue.close()  # type: ignore[attr-defined]
        await client.aclose()
