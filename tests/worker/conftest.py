from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.worker import lifecycle
from tests.worker.bench import Bench
from tests.worker.running import Workers


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(lifecycle, "FIRST_PAUSE_S", 0.02)
    made = Bench(tmp_path)
    yield made
    await made.stop()
