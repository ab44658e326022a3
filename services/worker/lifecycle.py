"""The states of one engine as pure functions of (life, now): no clock, no process, no network. The driver does what they decide.

    starting -> loading -> warming -> ready -> restarting -> loading ...
    any of them -> failed (given up), -> draining (told to stop); before loading perhaps starting again: another model loads
    a placement on demand: unloaded -> starting ..., any of them -> draining -> unloaded (told to unload)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.wire.worker import WorkerState

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # this long ready, and the next failure counts as the first
STARTS_BEFORE_GIVING_UP = 3  # of an engine that has never been ready: a flag or a file is wrong, time won't mend it
MISSES_BEFORE_HUNG = 3  # a busy engine may miss a probe or two; shorter patience restarted healthy ones in the wild
WAITING = "waiting for another model to load"
UNLOAD_LIMIT_S = 600.0  # the gateway gives up a request after as long (settings.Deadlines.total_s)
DRAIN_LEAST_S = 2.5  # a gateway polls every second and may miss one poll: until then it still sends requests
IDLE_LOOKS = 2  # an answer may still be on its way when the engine's own count is 0 for the first time
LEAST_START_S = 300.0  # on CPU; a cold disk and a small CPU are slow, not broken
LEAST_GPU_START_S = 600.0  # the first start on Pascal compiles every kernel once


@dataclass(frozen=True, slots=True)
class Life:
    """One engine's state. Times are seconds of one monotonic clock; `failures` are in a row, `misses` are probes in a row."""

    state: WorkerState
    since_s: float
    reason: str | None = None
    starts: int = 0
    failures: int = 0
    misses: int = 0
    was_ready: bool = False
    retry_at_s: float | None = None

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)


def born(now: float) -> Life:
    return Life(WorkerState.STARTING, now, "checking the card before the start")


def waiting(life: Life, now: float) -> Life:
    """Another worker of this host loads its model. Not counted against the start's deadline, which begins with the launch."""
    return _to(life, WorkerState.STARTING, now, WAITING, retry_at_s=None)


def launched(life: Life, now: float) -> Life:
    return _to(life, WorkerState.LOADING, now, "the engine is loading", starts=life.starts + 1, misses=0, retry_at_s=None)


def loaded(life: Life, now: float) -> Life:
    return _to(life, WorkerState.WARMING, now, "the engine answers; waiting for its first result")


def warmed(life: Life, now: float) -> Life:
    return _to(life, WorkerState.READY, now, None, was_ready=True)


def probed(life: Life, now: float, problem: str | None) -> Life:
    """A liveness probe of a ready engine: `problem` is None when it answered."""
    if problem is None:
        return replace(life, misses=0)
    return replace(life, misses=life.misses + 1)


def is_hung(life: Life) -> bool:
    return life.misses >= MISSES_BEFORE_HUNG


def ended(life: Life, now: float, reason: str, *, hopeless: bool = False) -> Life:
    """The engine is gone, hung, late or could not be started. What now?

    1. Hopeless (the card is lost; or the memory is not there and it never was): failed, at once.
    2. It had been ready for a minute or more: this is the first failure of a new row.
    3. Never ready, and this was the third start in a row that failed: failed; the reason is the engine's own.
    4. Otherwise: restarting, after a pause of 1, 2, 4 ... 30 s by the number of failures in a row. Kept up for ever once it has been
       ready: a rig has no operator at night, and 30 s cost nothing.
    """
    # 1
    if hopeless:
        return _to(life, WorkerState.FAILED, now, reason, failures=life.failures + 1, retry_at_s=None)
    # 2
    steady = life.state is WorkerState.READY and now - life.since_s >= STEADY_S
    failures = 1 if steady else life.failures + 1
    # 3
    if not life.was_ready and failures >= STARTS_BEFORE_GIVING_UP:
        given_up = f"given up after {failures} starts; the last: {reason}"
        return _to(life, WorkerState.FAILED, now, given_up, failures=failures, retry_at_s=None)
    # 4
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1))
    return _to(life, WorkerState.RESTARTING, now, reason, failures=failures, retry_at_s=now + pause_s)


def quarantined(life: Life, now: float, why: str, left_s: float) -> Life:
    """Its card is in quarantine: not the engine's failure, and not counted as one."""
    return _to(life, WorkerState.RESTARTING, now, f"its card is in quarantine for {left_s:.0f} s: {why}", misses=0, retry_at_s=now + left_s)


def asked_to_restart(life: Life, now: float) -> Life:
    """By POST /restart: at once, and with a clean record."""
    return _to(life, WorkerState.RESTARTING, now, "restart was asked for", failures=0, misses=0, retry_at_s=now)


def told_to_stop(life: Life, now: float) -> Life:
    return _to(life, WorkerState.DRAINING, now, "stopping")


def told_to_drain(life: Life, now: float, limit_s: float) -> Life:
    return _to(life, WorkerState.DRAINING, now, f"stopping: requests that run may end within {limit_s:g} s, new ones are not sent here")


def unloaded(life: Life, now: float) -> Life:
    """Its memory is free. What comes next is a first start: restarts and failures count from there."""
    return _to(life, WorkerState.UNLOADED, now, "not loaded; a request for it, or POST /load, loads it", starts=0, failures=0, misses=0,
               retry_at_s=None)  # fmt: skip


def asked_to_load(life: Life, now: float) -> Life:
    return _to(life, WorkerState.STARTING, now, "checking the card before the start", retry_at_s=None)


def told_to_unload(life: Life, now: float) -> Life:
    return _to(life, WorkerState.DRAINING, now, "unloading: requests that run may end, new ones are not sent here")


def is_idle(idle_looks: int, for_s: float, limit_s: float) -> bool:
    """May an engine that is to be unloaded be stopped? It had no request in two looks in a row, or the limit has passed. Who told it to
    unload has stopped sending before."""
    return idle_looks >= IDLE_LOOKS or for_s >= limit_s


def is_drained(idle_looks: int, for_s: float, limit_s: float) -> bool:
    """May a draining engine be stopped? `idle_looks`: looks in a row that found it with no request; an unknown count is none of them.

    1. The limit has passed: yes, whatever runs.
    2. The gateway may not know yet: no.
    3. It had no request in two looks in a row: yes.
    Worked number: no request since the start of a drain of 30 s: stopped after 2.5 s. Drain of 1 s: after 1 s.
    """
    if for_s >= limit_s:  # 1
        return True
    return for_s >= DRAIN_LEAST_S and idle_looks >= IDLE_LOOKS  # 2, 3


def start_deadline_s(predicted_load_s: float | None, *, on_gpu: bool) -> float:
    """How long a start may take: five times the prediction, and never less than what a slow but healthy machine needs.

    Worked number: 40 s predicted on a GPU -> 600 s; 180 s (8 GB over a Gen1 x1 riser and a slow disk) -> 900 s.
    """
    least_s = LEAST_GPU_START_S if on_gpu else LEAST_START_S
    return max(least_s, 5.0 * (predicted_load_s or 0.0))


def _to(life: Life, state: WorkerState, now: float, reason: str | None, **change: object) -> Life:
    return replace(life, state=state, since_s=now, reason=reason, **change)  # type: ignore[arg-type]
