"""Prometheus' text format, as prometheus_client writes it but for what a scrape costs: the event loop writes it, and all requests wait.

With 500 sets of labels (64,000 lines) prometheus_client's own generate_latest took 1 s. What stands before the number is the same at
every scrape, so it is kept: for histograms with the child, for all else by name and labels.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from services.gateway.histogram import Histogram, line_head, shown

MOST_KEPT = 100_000


class Registry(CollectorRegistry):
    """A registry that writes itself."""

    def __init__(self) -> None:
        super().__init__(auto_describe=False)
        self._collectors: list[Collector] = []
        self._heads: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self._collectors.append(collector)

    def text(self) -> bytes:
        """The exposition, format 0.0.4."""
        if len(self._heads) > MOST_KEPT:  # labels never hold a client's text, but a configuration may change for ever
            self._heads.clear()
        parts: list[bytes] = []
        for collector in self._collectors:
            if isinstance(collector, Histogram):
                parts.append(collector.text())
            else:
                parts.extend("".join(self._family(metric)).encode() for metric in collector.collect())
        return b"".join(parts)

    def _family(self, metric: Metric) -> Iterator[str]:
        """Its lines; the time of creation, which this format has no place for, follows as a gauge of its own."""
        about = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        yield f"# HELP {name} {about}\n# TYPE {name} {metric.type}\n"
        created = f"{metric.name}_created"
        for sample in metric.samples:
            if sample.name != created:
                yield self._line(sample)
        late = [self._line(sample) for sample in metric.samples if sample.name == created]
        if late:
            yield f"# HELP {created} {about}\n# TYPE {created} gauge\n{''.join(late)}"

    def _line(self, sample: Sample) -> str:
        key = (sample.name, tuple(sample.labels.items()))
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = line_head(sample.name, sample.labels)
        return f"{head}{shown(sample.value)}\n"
