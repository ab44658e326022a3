"""Prometheus metrics of what is now: backends, their engines, queues, cards. Read from the gateway's own state at every scrape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.gateway.backends import Backend
from services.gateway.card_readings import card_metrics
from services.gateway.directory import Directory
from services.sizing.types import Card
from services.wire.worker import WorkerState

BACKEND = ("backend", "model", "card")


class StateCollector(Collector):
    """What is unknown has no sample: a 0 would be a lie."""

    def __init__(self, directory: Directory, cards: Sequence[Card]) -> None:
        self._directory = directory
        self.cards = cards

    def collect(self) -> Iterable[Metric]:
        backends = self._directory.backends
        cards = [*_of_cards(self.cards, backends), *card_metrics(self.cards, backends)]
        return [*_of_backends(backends), *_of_engines(backends), *self._of_queues(), *cards]

    def _of_queues(self) -> list[Metric]:
        waiting = GaugeMetricFamily("rigserve_requests_waiting", "Requests in the gateway's queue", labels=["model"])
        limit = GaugeMetricFamily("rigserve_queue_limit", "Requests that may wait; more are refused", labels=["model"])
        for served in self._directory.models.values():
            waiting.add_metric([served.id], len(served.queue.waiting))
            limit.add_metric([served.id], served.queue.limit)
        return [waiting, limit]


def _labels(backend: Backend) -> list[str]:
    return [backend.id, backend.model_id, backend.card.id if backend.card else ""]


def _of_backends(backends: Sequence[Backend]) -> list[Metric]:
    ready = GaugeMetricFamily("rigserve_backend_ready", "1 when the backend is ready", labels=BACKEND)
    state = GaugeMetricFamily("rigserve_backend_state", "1 for the state that the backend is in", labels=(*BACKEND, "state"))
    running = GaugeMetricFamily("rigserve_requests_running", "Taken seats", labels=BACKEND)
    slots = GaugeMetricFamily("rigserve_backend_slots", "Seats", labels=BACKEND)
    ejected = GaugeMetricFamily("rigserve_backend_ejected", "1 while it is ready but out of service for failing", labels=BACKEND)
    opened = CounterMetricFamily("rigserve_breaker_opened", "How often the breaker of a backend has opened", labels=BACKEND)
    beats = CounterMetricFamily("rigserve_heartbeats", "One-token requests of ours to an engine in doubt", labels=(*BACKEND, "answered"))
    for backend in backends:
        labels = _labels(backend)
        ejected.add_metric(labels, backend.ejected)
        opened.add_metric(labels, backend.breaker.opened)
        for answered, count in zip(("true", "false"), backend.heartbeats, strict=True):
            beats.add_metric([*labels, answered], count)
        ready.add_metric(labels, backend.state is WorkerState.READY)
        running.add_metric(labels, backend.lane.in_flight)
        slots.add_metric(labels, backend.lane.slots)
        for one in WorkerState:
            state.add_metric([*labels, one.value], backend.state is one)
    return [ready, state, running, slots, ejected, opened, beats]


def _of_engines(backends: Sequence[Backend]) -> list[Metric]:
    """What the workers said last; memory only while they still say it."""
    restarts = CounterMetricFamily("rigserve_engine_restarts", "Starts of the engine after its worker's first", labels=BACKEND)
    load = GaugeMetricFamily("rigserve_engine_load_seconds", "How long the engine's last start took", labels=BACKEND)
    resident = GaugeMetricFamily("rigserve_engine_resident_bytes", "Memory that the engine holds (of the card; of the host on a CPU card)",
                                 labels=BACKEND)
    for backend in backends:
        said = (("restarts", restarts), ("load_s", load), ("resident_bytes", resident))
        for key, metric in said:
            value = (backend.status or {}).get(key)
            known = isinstance(value, int | float) and (key != "resident_bytes" or backend.state is not WorkerState.UNREACHABLE)
            if known:
                metric.add_metric(_labels(backend), float(value or 0))
    return [restarts, load, resident]


def _of_cards(cards: Sequence[Card], backends: Sequence[Backend]) -> list[Metric]:
    planned: dict[str, int] = {}
    for backend in backends:
        need_bytes = backend.placement.report.need_bytes if backend.placement else None
        if need_bytes is not None and backend.card is not None:
            planned[backend.card.id] = planned.get(backend.card.id, 0) + need_bytes
    info = GaugeMetricFamily("rigserve_card_info", "1; names the card", labels=["card", "name", "simulated"])
    total = GaugeMetricFamily("rigserve_card_total_bytes", "Memory of the card", labels=["card"])
    sums = GaugeMetricFamily("rigserve_card_planned_bytes", "Sum of the bills of the placements of a card", labels=["card"])
    for card in cards:
        info.add_metric([card.id, card.name, str(card.simulated).lower()], 1)
        total.add_metric([card.id], card.total_bytes)
    for card_id, size in planned.items():
        sums.add_metric([card_id], size)
    return [info, total, sums]
