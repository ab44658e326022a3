"""How often the driver looks at things, and how long it waits for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the driver looks, in seconds."""

    poll_s: float = 0.1  # while loading
    slow_poll_s: float = 0.5  # after the first ten seconds of loading
    probe_s: float = 5.0  # once ready
    probe_timeout_s: float = 10.0
    check_timeout_s: float = 30.0  # for one small request of an engine that is in doubt
    sample_s: float = 1.0  # memory, while loading; at every fifth of it once ready
    lock_s: float = 0.25  # whether the load lock is free
    telemetry_s: float = 1.0
    drain_s: float = 0.5  # how many requests still run, while draining
