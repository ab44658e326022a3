"""What /v1/cards and /metrics say of a card: what its workers said, and nothing that nobody said."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from services.gateway.backends import Backend
from services.gateway.card_readings import card_health, card_metrics
from services.gateway.scheduler import Lane
from services.gateway.upstream import Upstream, parse_origin
from services.sizing.types import Card
from services.wire.worker import WorkerState

CARD = Card("GPU-1", "RTX 3060 Ti", "nvidia", 8 << 30, index=0)
READING = {"power_watts": 118.25, "temperature_c": 71, "used_bytes": 3 << 30, "energy_j": 7.5, "energy_source": "integrated", "age_s": 0.4,
           "throttle_reasons": ["sw_power_cap"], "pcie_replays": None, "last_xid": None}


def backend(ident: str, state: WorkerState = WorkerState.READY, **status: Any) -> Backend:
    made = Backend(ident, "m", "text", Upstream(parse_origin("http://127.0.0.1:9")), Lane(ident, 1), card=CARD, state=state)
    made.status = status
    return made


def text(*backends: Backend) -> str:
    class One(Collector):
        def collect(self) -> Any:
            return card_metrics([CARD], backends)

    registry = CollectorRegistry()
    registry.register(One())
    return generate_latest(registry).decode()


def test_the_worst_opinion_and_the_newest_reading() -> None:
    old = READING | {"age_s": 9.0, "temperature_c": 50}
    fine, hot = backend("a", card_state="ok", telemetry=READING), backend("b", card_state="throttled", card_reason="hot", telemetry=old)
    assert card_health(CARD, [fine, hot]) == {"state": "throttled", "state_reason": "hot", "telemetry": READING}
    stopping = backend("c", card_state="draining", card_reason="its worker is stopping", telemetry=None)
    assert card_health(CARD, [stopping, hot])["state"] == "throttled"


def test_who_is_silent_says_nothing() -> None:
    unknown = {"state": None, "state_reason": None, "telemetry": None}
    assert card_health(CARD, [backend("a", WorkerState.UNREACHABLE, card_state="ok", telemetry=READING)]) == unknown
    assert card_health(CARD, [backend("a", card_state=None)]) == unknown
    assert card_health(CARD, []) == unknown
    assert "{" not in text(backend("a"))


def test_the_exporters_spelling_and_units() -> None:
    said = text(backend("a", card_state="ok", telemetry=READING))
    labels = 'UUID="GPU-1",gpu="0",modelName="RTX 3060 Ti"'
    assert f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} 118.25" in said
    assert f"DCGM_FI_DEV_FB_USED{{{labels}}} 3072.0" in said
    assert 'energy_source="integrated"' in said
    assert "} 7500.0" in said
    assert 'rigserve_card_state{card="GPU-1",state="ok"} 1.0' in said
    assert 'rigserve_card_throttle_reason{card="GPU-1",reason="sw_power_cap"} 1.0' in said
    assert "DCGM_FI_DEV_PCIE_REPLAY_COUNTER{" not in said
    assert "DCGM_FI_DEV_XID_ERRORS{" not in said
