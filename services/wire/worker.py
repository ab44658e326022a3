"""What a worker tells about itself: the one contract between a worker and whoever asks it (gateway, CLI, supervisor).

A worker is one process per placement. It starts the engine as a child and answers small routes on its own port, all but the last
asking for `Authorization: Bearer <token>`:

  GET /status  -> 200 and the JSON form of WorkerStatus, whatever state the engine is in
  POST /restart -> 202, the engine is stopped and started again
  POST /load    -> 202, an engine that is not loaded is started; no-op when it is
  POST /unload  -> 202, its running requests may end, then the engine is stopped and its memory free: `unloaded`, until the next /load
  POST /check   -> 202, a ready engine is given one small request; when it does not answer and no token moves, it is restarted
  GET /readyz   -> 200 {"state": "ready"} (or "unloaded", where nothing is amiss), else 503 with its state; no token: the health
                   check of a container has none

Requests for the model never pass through the worker: the gateway talks to the engine's own port with the same token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class WorkerState(StrEnum):
    """starting -> loading -> warming -> ready; a dead or hung engine goes ready -> restarting -> loading ...; an engine that is told to
    unload goes draining -> unloaded, and begins again at its next load."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"
    UNLOADED = "unloaded"
    UNREACHABLE = "unreachable"  # said by the gateway, never by the worker itself


class CardState(StrEnum):
    """How a worker finds its card. draining: in quarantine, or its worker is stopping; nothing new is started there."""

    OK = "ok"
    THROTTLED = "throttled"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Intake:
    """Which share of its slots a card lets new requests have: 1.0 all, 0.0 none while it is too hot, with the reason and the seconds after
    which to ask again."""

    share: float
    reason: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One snapshot. Times are seconds, sizes bytes; None where not (yet) known.

    `load_s`: process start to first good answer of the last start. `peak_bytes`: highest memory of the engine's process tree
    (PSS on a CPU card, device memory on a GPU) seen by the warm-up. `resident_bytes`: the same, now. `reason` is set whenever the
    state is not ready. `host_peak_bytes`: highest host memory of the process tree. `notes`: what is said aloud although the engine runs.
    `measured`: the last start's `services.calibration.record.Observation` as plain data.
    `workload`: what the engine was really started with. `card_state` None: nobody watches the card (a simulated one). `telemetry`: the last
    `services.hardware.telemetry.Reading`, with `age_s` and `last_xid`. `intake` None: nobody watches the card, so all may come.
    """

    placement_id: str
    model_id: str
    card_id: str
    engine: str
    state: WorkerState
    state_for_s: float
    reason: str | None = None
    engine_pid: int | None = None
    restarts: int = 0
    load_s: float | None = None
    peak_bytes: int | None = None
    resident_bytes: int | None = None
    worker_resident_bytes: int | None = None
    free_bytes_at_start: int | None = None
    engine_version: str | None = None
    host_peak_bytes: int | None = None
    notes: tuple[str, ...] = ()
    measured: dict[str, Any] | None = None
    workload: dict[str, Any] | None = None
    card_state: CardState | None = None
    card_reason: str | None = None
    telemetry: dict[str, Any] | None = None
    intake: Intake | None = None
