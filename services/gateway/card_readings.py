"""How the cards are, by what their workers said last: for /v1/cards, and as metrics in the spelling of NVIDIA's dcgm-exporter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from services.gateway.backends import Backend
from services.sizing.types import Card
from services.wire.worker import CardState, WorkerState

# Worst first: of several workers on one card the worst opinion is told. Draining is one worker's own affair, so it comes late.
_WORST = (CardState.LOST, CardState.SUSPECT, CardState.THROTTLED, CardState.DRAINING, CardState.OK)
MIB = 2**20
# dcgm-exporter's etc/default-counters.csv: name -> (field of a Reading, factor to its unit, help). What it counts is a gauge here: its
# counters lack the suffix _total that this format asks of one.
DCGM: dict[str, tuple[str, float, str]] = {
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_mhz", 1, "SM clock in MHz"),
    "DCGM_FI_DEV_MEM_CLOCK": ("memory_clock_mhz", 1, "Memory clock in MHz"),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_c", 1, "Temperature of the GPU in degrees Celsius"),
    "DCGM_FI_DEV_MEMORY_TEMP": ("memory_temperature_c", 1, "Temperature of its memory in degrees Celsius"),
    "DCGM_FI_DEV_POWER_USAGE": ("power_watts", 1, "Power in watts"),
    "DCGM_FI_DEV_GPU_UTIL": ("gpu_utilization_percent", 1, "Utilization of the GPU in percent"),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("memory_utilization_percent", 1, "Utilization of its memory in percent"),
    "DCGM_FI_DEV_FB_USED": ("used_bytes", 1 / MIB, "Memory in use in MiB"),
    "DCGM_FI_DEV_FB_FREE": ("free_bytes", 1 / MIB, "Memory free in MiB"),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("pcie_replays", 1, "PCIe packets sent again since the driver was loaded"),
    "DCGM_FI_DEV_XID_ERRORS": ("last_xid", 1, "The last Xid error"),
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": ("ecc_corrected", 1, "Corrected memory errors in the card's life"),
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": ("ecc_uncorrected", 1, "Uncorrectable memory errors in the card's life"),
}
_LABELS = ("gpu", "UUID", "modelName")


def card_health(card: Card, backends: Iterable[Backend]) -> dict[str, Any]:
    """`state`, `state_reason`, `telemetry`; all None where no worker of the card answers, or watches it."""
    said = [
        backend.status for backend in backends
        if backend.card is card and backend.status is not None and backend.state is not WorkerState.UNREACHABLE
    ]  # fmt: skip
    states = {status.get("card_state"): status.get("card_reason") for status in said}
    state = next((one.value for one in _WORST if one.value in states), None)
    readings = [status["telemetry"] for status in said if isinstance(status.get("telemetry"), dict)]
    newest = min(readings, key=lambda reading: float(reading.get("age_s") or 0.0), default=None)
    return {"state": state, "state_reason": states.get(state) if state else None, "telemetry": newest}


def card_metrics(cards: Sequence[Card], backends: Sequence[Backend]) -> list[Metric]:
    """What is unknown has no sample."""
    figures = {name: GaugeMetricFamily(name, words, labels=_LABELS) for name, (_, _, words) in DCGM.items()}
    energy = GaugeMetricFamily("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy in mJ; energy_source says whether the card counted it",
                               labels=(*_LABELS, "energy_source"))
    state = GaugeMetricFamily("rigserve_card_state", "1 for the state that the card is in", labels=["card", "state"])
    throttled = GaugeMetricFamily("rigserve_card_throttle_reason", "1 for what holds the clocks down", labels=["card", "reason"])
    for card in cards:
        health = card_health(card, backends)
        labels = ["" if card.index is None else str(card.index), card.id, card.name]
        for one in CardState if health["state"] is not None else ():
            state.add_metric([card.id, one.value], health["state"] == one.value)
        reading = health["telemetry"] or {}
        for name, (field, factor, _) in DCGM.items():
            if (value := number(reading.get(field))) is not None:
                figures[name].add_metric(labels, value * factor)
        if (joules := number(reading.get("energy_j"))) is not None:
            energy.add_metric([*labels, str(reading.get("energy_source"))], joules * 1000)
        for reason in reading.get("throttle_reasons") or ():
            throttled.add_metric([card.id, str(reason)], 1)
    return [state, throttled, energy, *figures.values()]


def number(value: Any) -> float | None:
    """A figure of a reading; None for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
