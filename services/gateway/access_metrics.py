"""Prometheus metrics of keys and usage. No label holds a key, its name or its id: who may scrape need not know the users."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.gateway.door import Mode
from services.gateway.ledger import Ledger


class AccessCollector(Collector):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        ledger = self._ledger
        door, usage = ledger.door, ledger.usage
        refused = CounterMetricFamily("rigserve_access_refused", "Requests refused for their key or its limits", labels=["code"])
        for code, count in door.refused.items():
            refused.add_metric([code], count)
        mode = GaugeMetricFamily("rigserve_access_mode", "1 for how the gateway lets requests in", labels=["mode"])
        for one in Mode:
            mode.add_metric([one.value], door.mode is one)
        return [
            refused, mode,
            GaugeMetricFamily("rigserve_keys_active", "Keys in force (expired ones among them)", door.active_keys),
            GaugeMetricFamily("rigserve_keys_stale", "1 while the keys can't be read and the last known ones are in force", ledger.failing),
            CounterMetricFamily("rigserve_keys_read_failures", "Looks at the keys that failed", ledger.read_failures),
            GaugeMetricFamily("rigserve_usage_waiting_rows", "Rows of usage that are not in the database yet", usage.waiting_rows),
            CounterMetricFamily("rigserve_usage_write_failures", "Writes of usage that the database did not take", usage.failures),
            CounterMetricFamily("rigserve_usage_lost_requests", "Requests whose usage was not kept", usage.lost_requests),
        ]  # fmt: skip
