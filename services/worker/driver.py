"""Runs one engine through its states: what `lifecycle` decides is done here, with real processes, ports and clocks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime

from services.calibration.record import Observation
from services.calibration.store import CalibrationError, Store
from services.hardware.memory import CardLostError, process_resident_bytes
from services.hardware.telemetry import Meter
from services.sizing.types import Plan
from services.wire.worker import WorkerState, WorkerStatus
from services.worker import admission, lifecycle, observed
from services.worker.before_start import port_taken, write_private
from services.worker.card_care import CardCare
from services.worker.card_state import CardView
from services.worker.draining import Over, until_idle
from services.worker.enginelog import EngineLog
from services.worker.engines import launch as launch_of
from services.worker.engines.environment import child_environment
from services.worker.engines.order import Launch, LaunchError, Order
from services.worker.failure import is_out_of_memory, why_it_ended
from services.worker.gauge import Gauge
from services.worker.lifecycle import Life
from services.worker.loadlock import LoadLock
from services.worker.probe import EngineHttp
from services.worker.process import EngineProcess
from services.worker.questions import Questions
from services.worker.smaller import in_words, smaller
from services.worker.timing import Timing
from services.worker.trial import trial


class Driver:
    """One placement's engine. `run` keeps it up until `stop`; `status` and `restart` may be called at any time on the same loop."""

    def __init__(
        self,
        plan: Plan,
        order: Order,
        log: EngineLog,
        *,
        say: Callable[[str], None] = lambda text: None,
        timing: Timing | None = None,
        launcher: Callable[[Order], Launch] = launch_of,
        load_lock: LoadLock | None = None,
        calibration: Store | None = None,
        meter: Meter | None = None,
    ) -> None:
        """`load_lock`: held from before the engine starts until it is ready or over. `calibration`: keeps what is measured. `meter`: reads
        the card each second."""
        self._plan, self._order, self._log, self._say, self._launcher = plan, order, log, say, launcher
        self._timing = timing or Timing()
        probe_host = "127.0.0.1" if order.engine_host in ("0.0.0.0", "::") else order.engine_host  # noqa: S104 - compared, not bound
        self._http = EngineHttp(probe_host, order.engine_port, order.token)
        self._questions = Questions(
            self._http, order.placement.choice.engine, self._timing.probe_timeout_s, self._timing.check_timeout_s
        )
        self._interrupt = asyncio.Event()
        self._doubt = asyncio.Event()
        self._load_lock = load_lock
        self._calibration = calibration
        self._planned = order.placement
        self._smaller: str | None = None  # what was said when a smaller workload was tried
        self._care = CardCare(meter, self._on_card, every_s=self._timing.telemetry_s)
        self._measured: Observation | None = None
        self._stopping = False
        self._resting = order.placement.on_demand
        self._unloading: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._process: EngineProcess | None = None
        self._gauge: Gauge | None = None
        self._load_s: float | None = None
        self._peak_bytes: int | None = None
        self._free_bytes: int | None = None
        self._used_before_bytes: int | None = None
        self._version: str | None = None
        self.life: Life = lifecycle.born(time.monotonic())

    def status(self) -> WorkerStatus:
        placement = self._order.placement
        running = self._process is not None and not self._process.exited.is_set()
        card_state, card_reason = self._care.state(draining=self._stopping or self._draining is not None)
        return WorkerStatus(
            placement_id=placement.id,
            model_id=placement.model_id,
            card_id=self._order.card.id,
            engine=placement.choice.engine.value,
            state=self.life.state,
            state_for_s=round(time.monotonic() - self.life.since_s, 3),
            reason=self.life.reason,
            engine_pid=self._process.pid if self._process and running else None,
            restarts=self.life.restarts,
            load_s=self._load_s,
            peak_bytes=self._peak_bytes,
            resident_bytes=self._gauge.now_bytes if self._gauge and running else None,
            worker_resident_bytes=process_resident_bytes(os.getpid()),
            free_bytes_at_start=self._free_bytes,
            engine_version=self._version,
            host_peak_bytes=self._gauge.host_peak_bytes if self._gauge else None,
            notes=(self._smaller,) if self._smaller else (),
            measured=asdict(self._measured) if self._measured else None,
            workload=asdict(placement.workload),
            card_state=card_state, card_reason=card_reason,
            telemetry=self._care.telemetry(),
            intake=self._care.intake(),
        )

    def stop(self) -> None:
        """End the engine for good; `run` returns when its tree is gone."""
        self._stopping = True
        self._turn(lifecycle.told_to_stop(self.life, time.monotonic()))
        self._interrupt.set()

    def drain(self, limit_s: float) -> None:
        """Let the requests that run end, then `stop`. At once when there is no limit, no ready engine, or it is asked for again."""
        if self._draining is not None or limit_s <= 0 or self.life.state is not WorkerState.READY:
            self.stop()
            return
        self._turn(lifecycle.told_to_drain(self.life, time.monotonic(), limit_s))
        self._draining = asyncio.create_task(self._drain(limit_s))

    async def _drain(self, limit_s: float) -> None:
        await self._until_idle(lifecycle.is_drained, limit_s)
        if not self._stopping:
            self.stop()

    async def _until_idle(self, over: Over, limit_s: float) -> None:
        said = await until_idle(self._questions, self._timing, over, limit_s, lambda: self._stopping)
        if not self._stopping:
            self._say(f"{self._order.placement.id}: {said}")

    def load(self) -> None:
        """Start the engine, if it is not loaded or was given up."""
        if self._resting and not self._stopping and self._draining is None:
            self._resting = False
            self._turn(lifecycle.asked_to_load(self.life, time.monotonic()))
            self._interrupt.set()
        elif self.life.state is WorkerState.FAILED:
            self.restart()

    def unload(self) -> None:
        """Let the requests that run end, then stop the engine and wait for a `load`. No-op while that goes on."""
        if self._resting or self._stopping or self._draining is not None or self._unloading is not None:
            return
        was_ready = self.life.state is WorkerState.READY
        self._turn(lifecycle.told_to_unload(self.life, time.monotonic()))
        self._unloading = asyncio.create_task(self._unload(lifecycle.UNLOAD_LIMIT_S if was_ready else 0.0))

    async def _unload(self, limit_s: float) -> None:
        await self._until_idle(lifecycle.is_idle, limit_s)
        self._resting, self._unloading = True, None
        self._interrupt.set()

    async def _rest(self) -> None:
        """Nothing is loaded until somebody asks."""
        self._turn(lifecycle.unloaded(self.life, time.monotonic()))
        await self._interrupt.wait()

    def restart(self) -> None:
        """Stop the engine, if there is one, and start it again at once, also after it was given up."""
        if not self._stopping and self._draining is None:
            self._order, self._smaller, self._resting = replace(self._order, placement=self._planned), None, False
            self._turn(lifecycle.asked_to_restart(self.life, time.monotonic()))
            self._interrupt.set()

    def check(self) -> None:
        """Somebody waited in vain for this engine: see whether it still does any work, and restart it if not."""
        self._doubt.set()

    async def run(self, *, until_failed: bool = False) -> None:
        """Until `stop`; with `until_failed` also until the engine is given up."""
        self._care.start()
        try:
            await self._run(until_failed)
        finally:
            self._care.stop()

    async def _run(self, until_failed: bool) -> None:
        while not self._stopping and not (until_failed and self.life.state is WorkerState.FAILED):
            self._interrupt.clear()
            if self._resting:
                await self._rest()
                continue
            try:
                if await self._may_load():
                    await self._one_start()
            finally:
                self._let_others_load()
            if self._draining is not None:  # the engine ended by itself meanwhile, or the drain is over
                self.stop()
            elif not self._interrupt.is_set() and not (until_failed and self.life.state is WorkerState.FAILED):
                await self._pause()
        for task in (self._draining, self._unloading):
            if task is not None:
                task.cancel()

    async def _may_load(self) -> bool:
        """Waits while another worker of this host loads its model; False when interrupted. A lock that can't be had is no reason to
        serve nothing: said, and gone without."""
        if self._load_lock is None:
            return True
        while not self._interrupt.is_set():
            try:
                if self._load_lock.take():
                    return True
            except OSError as error:
                self._say(f"{self._order.placement.id}: the load lock can't be taken ({error.strerror}); loading without it")
                return True
            if self.life.reason != lifecycle.WAITING:
                self._turn(lifecycle.waiting(self.life, time.monotonic()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._interrupt.wait(), self._timing.lock_s)
        return False

    def _let_others_load(self) -> None:
        if self._load_lock is not None:
            self._load_lock.release()

    async def _pause(self) -> None:
        """Until the next start is due, or for ever after a failure; an interrupt ends it."""
        retry_at_s = self.life.retry_at_s
        patience_s = None if retry_at_s is None else max(0.0, retry_at_s - time.monotonic())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._interrupt.wait(), patience_s)

    async def _one_start(self) -> None:
        """From the look at memory to the end of the engine, whatever the end."""
        launch = self._admit()
        if launch is None:
            return
        process = None
        try:
            for file in launch.files:
                write_private(file)
            self._log.new_start(f"start {self.life.starts + 1} of {self._order.placement.id}")
            env = child_environment(os.environ, self._order.card) | launch.env
            process = EngineProcess(launch.argv, env, launch.cwd, self._log, launch.stop_grace_s)
            self._process = process
            self._gauge = Gauge(self._order.card, process.tree, self._used_before_bytes)
            self._turn(lifecycle.launched(self.life, time.monotonic()))
            await self._until_over(process, launch, self._gauge)
        except (OSError, LaunchError) as error:
            hopeless = isinstance(error, LaunchError)
            self._turn(lifecycle.ended(self.life, time.monotonic(), f"could not be started: {error}", hopeless=hopeless))
        finally:
            if process is not None:
                await process.stop()
            for file in launch.files:
                file.path.unlink(missing_ok=True)

    def _admit(self) -> Launch | None:
        """The command line, or None (and the state says why) when the engine must not be started now."""
        now = time.monotonic()
        placement, card = self._order.placement, self._order.card
        if (left_s := self._care.quarantine_left_s()) > 0:
            self._turn(lifecycle.quarantined(self.life, now, self._care.view.quarantine_reason or "", left_s))
            return None
        try:
            free = admission.measure(self._plan, placement, card)
            self._free_bytes, self._used_before_bytes = free.free_bytes, free.used_bytes
            refused = admission.refusal(placement, card, free)
            if refused and not self.life.was_ready and self._try_smaller(refused, free.free_bytes):
                refused = None
            if refused:  # once it has been ready, the missing memory may only be what the dead engine has not given back yet
                self._turn(lifecycle.ended(self.life, now, refused, hopeless=not self.life.was_ready))
                return None
            if port_taken(self._order.engine_host, self._order.engine_port):
                self._turn(lifecycle.ended(self.life, now, f"the engine's port {self._order.engine_port} is in use by another program"))
                return None
            return self._launcher(replace(self._order, free_bytes=free.free_bytes))
        except (CardLostError, LaunchError) as error:
            self._turn(lifecycle.ended(self.life, now, str(error), hopeless=True))
            return None

    async def _until_over(self, process: EngineProcess, launch: Launch, gauge: Gauge) -> None:
        """Tend the engine until it ends by itself, has a problem, or somebody asks for a stop or restart."""
        tending = asyncio.create_task(self._tend(launch, gauge))
        gone = asyncio.create_task(process.exited.wait())
        told = asyncio.create_task(self._interrupt.wait())
        try:
            await asyncio.wait({tending, gone, told}, return_when=asyncio.FIRST_COMPLETED)
            if told.done() or self._draining is not None:  # told to stop, or told to and ended by itself
                return
            problem = why_it_ended(process.code or 0, self._log.lines()) if gone.done() else tending.result()
            self._over(problem)
        finally:
            for task in (tending, gone, told):
                task.cancel()
            await asyncio.gather(tending, gone, told, return_exceptions=True)

    def _over(self, problem: str) -> None:
        """The engine is gone: for want of memory it is tried once more with less; out of memory again before it was ever ready, it is
        given up."""
        hopeless = False
        if is_out_of_memory(problem):
            hopeless = self._smaller is not None and not self.life.was_ready
            self._care.out_of_memory()
            self._try_smaller(problem, self._free_bytes)
        self._turn(lifecycle.ended(self.life, time.monotonic(), problem, hopeless=hopeless))

    def _try_smaller(self, why: str, free_bytes: int | None) -> bool:
        """The largest smaller workload that fits, once, on the same card, said aloud."""
        made = None if self._smaller else smaller(self._order.placement, self._order.model, self._order.card, free_bytes)
        if made is None:
            return False
        self._smaller = in_words(self._order.placement, made, why)
        self._order = replace(self._order, placement=made)
        self._say(f"{made.id}: {self._smaller}")
        return True

    def _on_card(self, view: CardView) -> None:
        """The card's state has changed; in quarantine the engine ends, and starts again after it."""
        self._say(f"{self._order.placement.id}: card {view.state.value}{f': {view.reason}' if view.reason else ''}")
        if not self._stopping and self._draining is None and self._care.quarantine_left_s() > 0:
            self._turn(lifecycle.quarantined(self.life, time.monotonic(), view.quarantine_reason or "", self._care.quarantine_left_s()))
            self._interrupt.set()

    async def _tend(self, launch: Launch, gauge: Gauge) -> str:
        """Load, warm up, watch; returns what went wrong."""
        sampling = asyncio.create_task(self._sample(gauge))
        try:
            begun = time.monotonic()
            speed = self._order.placement.report.speed
            limit_s = lifecycle.start_deadline_s(speed.load_s if speed else None, on_gpu=self._order.card.vendor != "cpu")
            problem = await self._load(launch, begun, limit_s)
            problem = problem or await self._questions.first_result(launch, max(60.0, limit_s - (time.monotonic() - begun)))
            if problem:
                return problem
            self._load_s = round(time.monotonic() - begun, 3)
            self._version = await self._questions.version(launch, self._order.engine_python)
            problem = await self._measure(gauge, self._load_s)
            if problem:
                return problem
            self._turn(lifecycle.warmed(self.life, time.monotonic()))
            self._let_others_load()
            return await self._watch(launch)
        finally:
            sampling.cancel()

    async def _load(self, launch: Launch, begun: float, limit_s: float) -> str | None:
        """Until the engine's health route says 200; a sentence when that took too long."""
        while (for_s := time.monotonic() - begun) < limit_s:
            if await self._questions.well(launch) is None:
                self._turn(lifecycle.loaded(self.life, time.monotonic()))
                return None
            await asyncio.sleep(self._timing.poll_s if for_s < 10 else self._timing.slow_poll_s)
        last = next((line for line in reversed(self._log.lines()) if line.strip()), "nothing")
        return f"not loaded after {limit_s:.0f} s; its last line: {last[:300]}"

    async def _measure(self, gauge: Gauge, load_s: float) -> str | None:
        """What the engine takes and does, kept beside what was predicted; a sentence when it can't do what was promised."""
        measured = await asyncio.to_thread(trial, self._http, self._order)
        await asyncio.to_thread(gauge.sample)
        self._peak_bytes = gauge.peak_bytes
        if measured.problem:
            return measured.problem
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._measured = observed.observation(self._plan, self._order, observed.Start(load_s, measured, gauge, self._version, at))
        self._say(f"{self._order.placement.id}: measured: {observed.in_words(self._measured)}")
        self._care.measured_speed(self._measured.predicted_tok_s, self._measured.tok_s)
        if self._calibration is not None:
            try:
                await asyncio.to_thread(self._calibration.add, self._measured)
            except CalibrationError as error:  # no reason to serve nothing
                self._say(f"{self._order.placement.id}: not kept: {error}")
        return None

    async def _watch(self, launch: Launch) -> str:
        self._doubt.clear()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubt.wait(), self._timing.probe_s)
            doubted = self._doubt.is_set()
            self._doubt.clear()
            problem = await self._questions.well(launch)
            if doubted and problem is None:  # else the missed probes tell sooner than a small request, which waits for 30 s
                hung = await self._questions.works(launch)
                if hung:
                    return f"hung: {hung}"
            self.life = lifecycle.probed(self.life, time.monotonic(), problem)
            if lifecycle.is_hung(self.life):
                return f"hung: {self.life.misses} health probes in a row failed; the last: {problem}"

    async def _sample(self, gauge: Gauge) -> None:
        while True:
            await asyncio.to_thread(gauge.sample)
            await asyncio.sleep(self._timing.sample_s * (5 if self.life.state is WorkerState.READY else 1))

    def _turn(self, life: Life) -> None:
        """The one place where the state changes; said aloud."""
        if (life.state, life.reason) != (self.life.state, self.life.reason):
            self._say(f"{self._order.placement.id}: {life.state.value}{f': {life.reason}' if life.reason else ''}")
        self.life = life
