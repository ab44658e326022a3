"""A driver under test, in this process, with real engine processes (the stand-in) and short times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.calibration.store import Store
from services.hardware.telemetry import Meter
from services.sizing.types import Card, ModelSpec, Placement
from services.wire.worker import WorkerStatus
from services.worker.driver import Driver, Timing
from services.worker.enginelog import EngineLog
from services.worker.engines import launch
from services.worker.engines.order import Launch, Order
from services.worker.loadlock import LoadLock
from services.worker.probe import Answer, EngineHttp
from tests.worker.running import free_port, stand_in
from tests.worker.sample import CHAT, CPU, TOKEN, order, placement, plan

FAST = Timing(poll_s=0.02, slow_poll_s=0.02, probe_s=0.05, probe_timeout_s=10.0, sample_s=0.2, lock_s=0.02,
              drain_s=0.05, telemetry_s=0.02)


class Bench:
    """A driver under test; `states` is everything it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, mode: str = "good", *, card: Card = CPU, where: Placement | None = None, grace_s: float = 0.5,
              timing: Timing = FAST, launcher: Callable[[Order], Launch] = launch, load_lock: LoadLock | None = None,
              calibration: Store | None = None, model: ModelSpec = CHAT, meter: Meter | None = None, **run: bool) -> Driver:
        (self.folder / "token").write_text(TOKEN)
        (self.folder / "state").mkdir(exist_ok=True)
        (self.folder / f"{mode}.gguf").touch()
        where = where or placement(card)
        made = order(card, where, weights=self.folder / f"{mode}.gguf", engine_port=free_port(), token_file=self.folder / "token",
                     state_dir=self.folder / "state", engine_python=None, engine_binary=stand_in(self.folder), model=model)
        self.engine_port = made.engine_port
        self.log = EngineLog(self.folder / "engine.log", TOKEN)
        self.driver = Driver(plan(card, where), made, self.log, say=self.states.append, timing=timing,
                             launcher=lambda o: replace(launcher(o), stop_grace_s=grace_s), load_lock=load_lock, calibration=calibration,
                             meter=meter)
        self.tasks.append(asyncio.create_task(self.driver.run(**run)))
        return self.driver

    async def until(self, wanted: str | Callable[[WorkerStatus], bool], within_s: float = 30.0) -> WorkerStatus:
        test = wanted if callable(wanted) else lambda status: status.state == wanted
        begun = time.monotonic()
        while not test(self.driver.status()):
            assert time.monotonic() - begun < within_s, f"{self.driver.status()}\n{self.states}\n{self.log.lines()}"
            await asyncio.sleep(0.01)
        return self.driver.status()

    async def stop(self) -> None:
        for task in self.tasks:
            self.driver.stop()
            await task
        self.log.close()

    async def ask(self, path: str, body: Any) -> Answer:
        """One request to the engine itself."""
        return await asyncio.to_thread(EngineHttp("127.0.0.1", self.engine_port, TOKEN).ask, "POST", path, body, timeout_s=30)
