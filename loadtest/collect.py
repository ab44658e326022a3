"""Brings what the load generators saw to one place: in locust's own reports from its workers to its master, then to a file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gevent
import psutil
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

LAG_PROBE_S = 0.02
LAG_REPORT_S = 1.0


class Collector:
    """`rows` are dicts with a `type`: request, generator (how busy this process was), skipped, started."""

    def __init__(self, environment: Environment, out: Path | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._environment = environment
        self._out = out
        self._probe: gevent.Greenlet | None = None
        events = environment.events
        events.test_start.add_listener(self._start)
        events.report_to_master.add_listener(self._report)
        events.worker_report.add_listener(self._take)
        events.quitting.add_listener(self._write)

    @property
    def generator(self) -> int:
        """The number of this process among the generators."""
        runner = self._environment.runner
        return runner.worker_index if isinstance(runner, WorkerRunner) else 0

    @property
    def generators(self) -> int:
        runner = self._environment.runner
        if isinstance(runner, WorkerRunner):
            return max(1, getattr(self._environment.parsed_options, "load_generators", 1) or 1)
        return 1

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def _start(self, environment: Environment, **_: Any) -> None:
        if not isinstance(environment.runner, WorkerRunner):
            self.rows.clear()
            self.add({"type": "started", "unix_s": time.time()})
        if not isinstance(environment.runner, MasterRunner) and self._probe is None:
            self._probe = gevent.spawn(self._watch)

    def _watch(self) -> None:
        """How late this process's event loop wakes up: the lag that every time it measures may have in it."""
        process = psutil.Process()
        process.cpu_percent()
        lags: list[float] = []
        since = time.perf_counter()
        while True:
            before = time.perf_counter()
            gevent.sleep(LAG_PROBE_S)
            now = time.perf_counter()
            lags.append(max(0.0, now - before - LAG_PROBE_S))
            if now - since >= LAG_REPORT_S:
                row = {"type": "generator", "generator": self.generator, "unix_s": time.time(), "lags_s": [round(lag, 5) for lag in lags]}
                self.add(row | {"cpu_percent": process.cpu_percent()})
                lags, since = [], now

    def _report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        data["load_rows"], self.rows = json.dumps(self.rows), []

    def _take(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self.rows.extend(json.loads(data.pop("load_rows", "[]")))

    def _write(self, environment: Environment, **_: Any) -> None:
        if self._out is None or isinstance(environment.runner, WorkerRunner):
            return
        with self._out.open("w", encoding="utf8") as file:
            for row in self.rows:
                file.write(json.dumps(row) + "\n")
