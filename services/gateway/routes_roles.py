"""Routes for operators: load, unload, pin and unpin models that are loaded on demand. Nothing is waited for here."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from services.gateway.admission import LISTED
from services.gateway.body import parse_object, read_body
from services.gateway.core import Gateway
from services.gateway.json_response import json_response
from services.gateway.logs import log_event
from services.gateway.routes_openai import model_json
from services.wire.errors import InvalidValue, ModelNotFound, RouteNotFound

ORDERS = ("load", "unload", "pin", "unpin")
BODY_BYTES = 64 * 1024


def roles_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/admin/models")

    @router.post("/{what}")
    async def order(request: Request, what: str) -> Response:
        if what not in ORDERS:
            raise RouteNotFound(f"There is no such order; there are {', '.join(ORDERS)}.")
        asked = parse_object(await read_body(request, BODY_BYTES, gateway.settings.deadlines.body_s))
        for field in asked:
            if field != "model":
                raise InvalidValue("This route reads model, and nothing else.", param=field[:64])
        name = asked.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidValue("model is required: its id.", param="model")
        served = gateway.directory.get(name)
        if served is None:
            listed = ", ".join(list(gateway.directory.models)[:LISTED]) or "nothing"
            raise ModelNotFound(f"There is no model of this name here. Served: {listed}.", param="model")
        gateway.roles.order(served, what)
        caller = request.state.caller
        log_event("model_order", {"order": what, "model": served.id, "by": caller.id if caller else None})
        return json_response(model_json(gateway, served) | {"loaded_in_s": _loaded_in_s(gateway, served.id)}, 202)

    return router


def _loaded_in_s(gateway: Gateway, model_id: str) -> float | None:
    """None when it is loaded."""
    served = gateway.directory.models[model_id]
    return None if served.ready else round(gateway.roles.loaded_in_s(served, time.monotonic()), 1)
