"""One start of an engine as an observation: what its placement predicted beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from services.calibration.record import Observation
from services.sizing.calibration import card_kind, way
from services.sizing.types import MemoryBill, Plan
from services.sizing.units import gib
from services.worker.engines.order import Order
from services.worker.gauge import Gauge
from services.worker.trial import Trial


@dataclass(frozen=True, slots=True)
class Start:
    """What one start measured. `at`: UTC, ISO 8601."""

    load_s: float
    trial: Trial
    gauge: Gauge
    engine_version: str | None
    at: str


def observation(plan: Plan, order: Order, start: Start) -> Observation:
    """`order` with the workload that was really started."""
    placement, card, speed, host = order.placement, order.card, order.placement.report.speed, order.placement.report.host
    others = [other for other in plan.placements if other.card_id == card.id and other.id != placement.id]
    on_cpu = card.vendor == "cpu"
    return Observation(
        card_kind=card_kind(card), card_id=card.id, simulated=card.simulated, driver_version=card.driver_version,
        engine_version=start.engine_version, model_id=placement.model_id, variant_id=placement.variant_id, choice=way(placement.choice),
        workload=placement.workload, measured_at=start.at, peak_source=start.gauge.source, alone=not others,
        predicted_bytes=estimate_bytes(placement.report.bill), peak_bytes=start.gauge.peak_bytes or None,
        predicted_host_bytes=None if on_cpu or host is None else host.ram_bytes,
        host_peak_bytes=None if on_cpu else start.gauge.host_peak_bytes or None,
        predicted_load_s=_known(speed.load_s if speed else None), load_s=_known(start.load_s),
        predicted_tok_s=_known(speed.decode_tok_s if speed else None), tok_s=start.trial.tok_s,
        predicted_images_per_min=_known(speed.images_per_min if speed else None), images_per_min=start.trial.images_per_min,
    )  # fmt: skip


def estimate_bytes(bill: MemoryBill | None) -> int | None:
    """The bill without its reserve, which is there to be left over."""
    return None if bill is None else bill.total_bytes - bill.reserve_bytes


def in_words(one: Observation) -> str:
    """`peak 0.31 GiB (estimated 0.33 GiB), ready in 1.2 s, 21.3 tok/s (predicted: unknown)`."""
    said = [f"peak {_size(one.peak_bytes)} (estimated {_size(one.predicted_bytes)})", f"ready in {_rate(one.load_s)} s"]
    if one.workload.kind == "image":
        said.append(f"{_rate(one.images_per_min)} images/min (predicted: {_rate(one.predicted_images_per_min)})")
    else:
        said.append(f"{_rate(one.tok_s)} tok/s (predicted: {_rate(one.predicted_tok_s)})")
    return ", ".join(said)


def _size(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else gib(size_bytes)


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def _known(value: float | None) -> float | None:
    """None for nothing at all: a rate or time of 0 is no figure."""
    return float(value) if value else None
