"""What was expected of a placement, beside what it does: the plan's prediction, the worker's own measurement, the last sweep's knee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.gateway.backends import Backend
from services.gateway.core import Gateway
from services.gateway.directory import Served

NO_KNEE = "no sweep is known of this model: make one with the load kit, and start the gateway with --load-result result.json"


def predicted(backend: Backend, entry: dict[str, Any]) -> dict[str, Any]:
    """The prediction is of one request at a time, so the band of the whole placement goes from that to as many times that as it has seats:
    more it can't do, less it does while it rests. `of_predicted`: one request's speed now (1 / median TPOT), or images a minute, over it.

    Worked number: 60 tok/s and 4 seats: 60 to 240; a median TPOT of 0.02 s is 50 tok/s a request, 0.83 of the prediction.
    """
    speed, slots = backend.placement.report.speed if backend.placement else None, backend.lane.slots
    decode, images = (speed.decode_tok_s, speed.images_per_min) if speed else (None, None)
    measured = (backend.status or {}).get("measured") or {}
    tpot_s, images_per_s = entry["tpot_s"]["p50"], entry["images_per_s"]
    each = 1 / tpot_s if tpot_s else None
    reasons: dict[str, str] = {}
    if decode is None and images is None:
        why = speed.basis if speed and speed.basis else "the plan predicts no speed of it"
        reasons["prediction"] = why if backend.placement else "no plan: nothing is known of this server"
    if measured.get("tok_s") is None and measured.get("images_per_min") is None:
        reasons["measured_alone"] = "its worker has measured no speed"
    return {
        "output_tokens_per_s": {"low": decode, "high": decode * slots if slots else None} if decode else None,
        "prompt_tokens_per_s": speed.prefill_tok_s if speed else None,
        "images_per_s": images / 60 if images else None,
        "basis": speed.basis if speed and not reasons.get("prediction") else None,
        "measured_alone": {"output_tokens_per_s": measured.get("tok_s"), "images_per_min": measured.get("images_per_min")},
        "output_tokens_per_s_per_request": _rounded(each),
        "of_predicted": _rounded(each / decode if each and decode else images_per_s * 60 / images if images_per_s and images else None),
        "reasons": reasons,
    }


def capacity(gateway: Gateway, served: Served, requests_per_s: float | None) -> dict[str, Any]:
    """The last knee of a model. 1. None is known. 2. It was measured on other cards. 3. It is; `load` is this window's requests over it."""
    knee = next((one for name, one in gateway.throughput.knees.items() if gateway.directory.get(name) is served), None)
    if knee is None:  # 1
        return _no_knee(NO_KNEE)
    cards = sorted({backend.card.id for backend in served.backends if backend.card})
    if knee.cards and cards and list(knee.cards) != cards:  # 2
        return _no_knee(f"the sweep of {knee.measured_at} was of other cards ({', '.join(knee.cards)}); sweep again")
    load = requests_per_s / knee.knee_rps if requests_per_s is not None and knee.knee_rps else None  # 3
    return {
        "knee_rps": knee.knee_rps, "knee_output_tokens_per_s": knee.output_tok_s, "saturated_rps": knee.saturated_rps,
        "measured_at": knee.measured_at, "report": knee.report, "load": _rounded(load),
        "reason": "even the lowest rate of the sweep was too much" if knee.knee_rps is None else None,
    }


def card_capacity(gateway: Gateway, backends: Sequence[Backend]) -> dict[str, Any]:
    """A knee is a model's over all its cards: it is this card's where that is the only one of a model, and the model all that it serves."""
    served = {backend.model_id: gateway.directory.models[backend.model_id] for backend in backends}
    if not served:
        return _no_knee("nothing is placed on this card")
    if len(served) > 1:
        return _no_knee("several models share this card; see models")
    (only,) = served.values()
    if len(only.backends) != len(backends):
        return _no_knee("its model is served by other cards too; see models")
    found = capacity(gateway, only, None)
    return found | {"load": None}


def _no_knee(reason: str) -> dict[str, Any]:
    names = ("knee_rps", "knee_output_tokens_per_s", "saturated_rps", "measured_at", "report", "load")
    return dict.fromkeys(names) | {"reason": reason}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
