"""Our own routes: what fits, what the cards do, how fast they are, and whether all is well."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from services.gateway.backends import Backend
from services.gateway.body import read_body
from services.gateway.card_readings import card_health
from services.gateway.core import Gateway, nearest
from services.gateway.directory import spec_of
from services.gateway.door import Mode
from services.gateway.fit_request import read_fit_request
from services.gateway.fits import reports_json
from services.gateway.json_response import error_response, json_response
from services.gateway.openapi import document
from services.gateway.settings import WINDOWS_S
from services.gateway.throughput_report import report
from services.sizing.planfile import to_json
from services.wire.errors import InvalidValue, ModelNotFound, NoAvailableWorker
from services.wire.shapes import listing


def ops_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/cards")
    async def cards() -> Response:
        return json_response(cards_json(gateway))

    @router.get("/v1/throughput")
    async def throughput(request: Request) -> Response:
        window = request.query_params.get("window", "1m")
        now = time.monotonic()
        if window == "all":
            return json_response(listing([report(gateway, name, now) for name in WINDOWS_S]))
        if window not in WINDOWS_S:
            raise InvalidValue(f"window must be one of {', '.join(WINDOWS_S)}, all.", param="window")
        return json_response(report(gateway, window, now))

    @router.post("/v1/fit")
    async def fit(request: Request) -> Response:
        raw = await read_body(request, gateway.settings.limits.body_bytes, gateway.settings.deadlines.body_s)
        return json_response(await fit_json(gateway, raw))

    @router.get("/openapi.json")
    async def openapi() -> Response:
        # In a thread the first time: it takes as long as the loop may be held up.
        return Response(await asyncio.to_thread(document), media_type="application/json")

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @router.get("/readyz")
    async def readyz() -> Response:
        return ready_response(gateway)

    return router


def ready_response(gateway: Gateway) -> Response:
    """200 while requests are taken and at least one model is ready. Which models there are is said only where no key is asked for."""
    models = {served.id: "ready" if served.ready else str(served.backends[0].state) for served in gateway.directory.models.values()}
    shown: dict[str, Any] = {"models": models} if gateway.ledger.door.mode is Mode.UNKEYED else {}
    if gateway.draining:
        return error_response(NoAvailableWorker("This gateway is stopping.", extra={"status": "draining", **shown}))
    now = time.monotonic()
    if not any(served.ready or served.loadable(now) for served in gateway.directory.models.values()):
        extra = {"status": "starting", **shown}
        return error_response(NoAvailableWorker("No model is ready yet.", retry_after_s=2.0, extra=extra))
    return json_response({"status": "ready", **shown})


def cards_json(gateway: Gateway) -> dict[str, Any]:
    """Cards of the plan with their placements; `--backend` servers, whose cards nobody knows, apart."""
    now = time.monotonic()
    cards = []
    for card in gateway.plan.cards if gateway.plan else ():
        placed = [backend for backend in gateway.directory.backends if backend.card is card]
        cards.append(to_json(card) | {
            "planned_bytes": _sum([backend.placement.report.need_bytes for backend in placed if backend.placement]),
            "resident_bytes": _sum([(backend.status or {}).get("resident_bytes") for backend in placed]),
            "placements": [_placement_json(gateway, backend, now) for backend in placed],
        } | card_health(card, placed))
    loose = [
        _backend_json(backend, now) | {"url": backend.upstream.origin.url}
        for backend in gateway.directory.backends if backend.placement is None
    ]
    refusals = [to_json(refusal) for refusal in (gateway.plan.refusals if gateway.plan else ())]
    notes = list(gateway.plan.notes) if gateway.plan else []
    return listing(cards) | {"backends": loose, "refusals": refusals, "notes": notes}


def _sum(sizes: list[int | None]) -> int | None:
    """None when one of them is not known: a part is not the sum."""
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _placement_json(gateway: Gateway, backend: Backend, now: float) -> dict[str, Any]:
    placement = backend.placement
    assert placement is not None
    return _backend_json(backend, now) | {
        "variant_id": placement.variant_id,
        "quant": placement.report.quant,
        "choice": to_json(placement.choice),
        "workload": to_json(placement.workload),
        "on_demand": placement.on_demand,
        "pinned": gateway.roles.is_pinned(backend),
        "bill": to_json(placement.report.bill),
        "predicted_speed": to_json(placement.report.speed),
        "status": backend.status,
    }


def _backend_json(backend: Backend, now: float) -> dict[str, Any]:
    return {
        "id": backend.id,
        "model_id": backend.model_id,
        "engine": backend.engine,
        "state": backend.state,
        "state_for_s": round(now - backend.since_s, 3),
        "reason": backend.reason,
        "breaker": backend.breaker.phase,
        "ejected": backend.ejected,
        "slots": backend.lane.slots,
        "in_flight": backend.lane.in_flight,
        "served": backend.finished,
        "failed": backend.failed,
        "failures": backend.failures,
        "measured_unit_s": backend.lane.unit_s,
    }


async def fit_json(gateway: Gateway, raw: bytes) -> dict[str, Any]:
    """The answer of `POST /v1/fit`. Raises InvalidValue or ModelNotFound."""
    asked = read_fit_request(raw)
    spec = spec_of(gateway.catalogue, asked.model)
    if spec is None:
        near = nearest(gateway.catalogue, asked.model) if gateway.catalogue else ()
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise ModelNotFound(f"The catalogue has no model of this name.{hint}", param="model")
    cards = asked.cards if asked.cards is not None else gateway.fits.cards
    if not cards:
        message = 'This gateway knows no cards (it runs without a plan); name some, like "cards": "RTX 3060 Ti:1".'
        raise InvalidValue(message, param="cards")
    reports = await gateway.fits.ask(spec, cards, variant=asked.variant_of(spec), workload=asked.workload_for(spec), engine=asked.engine)
    return {"object": "fit", "model": spec.id, "fits": any(report.fits for report in reports), "reports": reports_json(reports)}
