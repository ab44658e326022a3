"""Locust's users: one class a kind of request for closed loops, and the dispatcher of open ones."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest.arrivals import Arrival, schedule, share
from loadtest.collect import Collector
from loadtest.exchange import Due, due_now, exchange, prepare
from loadtest.profiles import PROFILES
from loadtest.record import Record, to_row
from loadtest.spec import Spec, spec_from_json
from loadtest.workload import Ask, Workload


class ApiUser(FastHttpUser):
    """What all users share: the run's Spec, the key, and how a request becomes a row."""

    abstract = True
    insecure = False  # locust's default would take any certificate
    collector: ClassVar[Collector]
    _numbers: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, environment: Environment) -> None:
        self.spec: Spec = spec_from_json(environment.parsed_options.load_spec)
        self.network_timeout = self.connection_timeout = self.spec.timeout_s
        self.concurrency = self.spec.max_in_flight
        super().__init__(environment)
        prepare(self.client)
        self.headers: dict[str, str] = {}
        if self.spec.api_key_file:
            self.headers["Authorization"] = f"Bearer {Path(self.spec.api_key_file).read_text(encoding='utf8').strip()}"
        stream = f"{self.collector.generator}/{next(self._numbers)}"
        self.workload = Workload(self.spec, stream)

    def send(self, ask: Ask, due: Due, index: int | None = None) -> None:
        record = Record(ask.kind, due.unix_s, index, generator=self.collector.generator)
        try:
            exchange(self.client, ask, self.headers, due, self.spec.timeout_s, record)
        finally:
            self.collector.add(to_row(record))
        self._tell(record)

    def _tell(self, record: Record) -> None:
        """Rows of their own in locust's table."""
        if record.ending != "ok":
            return
        for name, value in (("TTFT", record.first_s), ("TPOT", record.tpot_s), ("queue", record.queue_s)):
            if value is not None:
                self.environment.events.request.fire(
                    request_type=name, name=record.kind, response_time=value * 1000, response_length=0, exception=None, context={}
                )


class ClosedUser(ApiUser):
    """Sends the next request when the last one has ended."""

    abstract = True
    kind = ""

    def on_start(self) -> None:
        if self.spec.stagger_s:
            gevent.sleep(self.workload.part() * self.spec.stagger_s)

    def pick(self) -> str:
        return self.kind

    @task
    def one(self) -> None:
        self.send(self.workload.next(self.pick()), due_now())
        if self.spec.think_s:
            gevent.sleep(self.spec.think_s)


class Mixed(ClosedUser):
    """Draws the kind of each request by the run's weights: few users make the whole mix too."""

    def pick(self) -> str:
        return self.workload.next_kind()


class ChatStream(ClosedUser):
    kind = "chat_stream"


class ChatNonStream(ClosedUser):
    kind = "chat"


class Completions(ClosedUser):
    kind = "completions"


class Embeddings(ClosedUser):
    kind = "embeddings"


class Image(ClosedUser):
    kind = "image"


class Probe(ClosedUser):
    """One token: what a request costs beside its tokens."""

    kind = "probe"


class MultiTurn(ClosedUser):
    """A conversation that grows, so each request begins with the one before."""

    kind = "multi_turn"


class Canceller(ClosedUser):
    """Leaves in the middle of an answer."""

    kind = "canceller"


class SlowReader(ClosedUser):
    kind = "slow_reader"


class WontFit(ClosedUser):
    """Asks for what no card can hold."""

    kind = "wont_fit"


class AbuseMix(ClosedUser):
    kind = "abuse"


class Dispatcher(ApiUser):
    """The open loop: sends every request when it is due, whether or not earlier ones have been answered. One in each generator."""

    @task
    def run_schedule(self) -> None:
        spec, pool = self.spec, Pool()
        # Locust's user goes away with its schedule; until then its greenlet is this one.
        arrivals = list(spec.trace) or schedule(spec.arrivals, spec.rate_rps or 0, spec.duration_s, spec.seed, spec.cv)
        started = due_now()
        for arrival in share(arrivals, self.collector.generator, self.collector.generators):
            due = Due(started.perf_s + arrival.at_s, started.unix_s + arrival.at_s)
            wait_s = due.perf_s - time.perf_counter()
            if wait_s > 0:
                gevent.sleep(wait_s)
            if len(pool) >= max(1, spec.max_in_flight // self.collector.generators):
                self.collector.add({"type": "skipped", "unix_s": due.unix_s, "index": arrival.index})
                continue
            pool.spawn(self._one, arrival, due)
        pool.join(timeout=max(0.0, started.perf_s + spec.duration_s + spec.drain_s - time.perf_counter()))
        pool.kill()
        raise StopUser

    def _one(self, arrival: Arrival, due: Due) -> None:
        self.send(self.workload.next(self.workload.next_kind(), arrival), due, arrival.index)


USERS: tuple[type[ClosedUser], ...] = (
    ChatStream, ChatNonStream, Completions, Embeddings, Image, Probe, MultiTurn, Canceller, SlowReader, WontFit, AbuseMix
)  # fmt: skip


def cast(environment: Environment, spec: Spec) -> None:
    """Who plays. Classes that were named on locust's command line do; else the dispatcher, or users that draw from the profile."""
    if set(environment.user_classes) >= {*USERS, Mixed, Dispatcher}:
        environment.user_classes[:] = [Dispatcher if spec.open_loop else Mixed]


def default_spec(options: Any) -> Spec:
    """For `locust -f loadtest/locustfile.py` without our own command: named by --load-profile and --load-model."""
    profile = options.load_profile
    models: dict[str, Any] = {"chat_model": options.load_model or None, "image_model": options.load_image_model or None}
    weights = {kind: weight for kind, weight in PROFILES[profile].weights.items() if kind != "image" or models["image_model"]}
    return Spec(url=options.host or "", profile=profile, weights=weights, api_key_file=options.load_api_key_file or None, **models)
