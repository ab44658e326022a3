"""OpenAI's routes: text, images, models."""

from __future__ import annotations

import re
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from services.gateway import admission
from services.gateway.admission import View
from services.gateway.body import read_body
from services.gateway.core import Gateway
from services.gateway.directory import Served
from services.gateway.door import Caller
from services.gateway.fields import header_value
from services.gateway.image_request import definite_size, read_edit_request, read_image_request
from services.gateway.image_response import ImageResponse
from services.gateway.json_response import json_response
from services.gateway.keep_alive import FIELD, KeepAlive, read_keep_alive
from services.gateway.outcome import Outcome
from services.gateway.scheduler import Need
from services.gateway.seated import SeatedResponse
from services.gateway.text_request import Route, read_text_request
from services.gateway.text_response import TextResponse
from services.wire.errors import ApiError, InvalidValue, ModelNotFound, RouteNotFound
from services.wire.images import format_of
from services.wire.shapes import listing, model_object

_PICTURE = re.compile(r"([A-Za-z0-9_-]{43})\.(png|jpeg|webp)", re.ASCII)
PICTURE_HEADERS = {
    "x-content-type-options": "nosniff", "cache-control": "private, max-age=300", "content-security-policy": "default-src 'none'",
}


def openai_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        return await text(gateway, request, "/v1/chat/completions")

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        return await text(gateway, request, "/v1/completions")

    @router.post("/embeddings")
    async def embeddings(request: Request) -> Response:
        return await text(gateway, request, "/v1/embeddings")

    @router.post("/rerank")
    async def rerank(request: Request) -> Response:
        return await text(gateway, request, "/v1/rerank")

    @router.post("/messages")
    async def messages(request: Request) -> Response:
        return await text(gateway, request, "/v1/messages")

    @router.post("/responses")
    async def responses(request: Request) -> Response:
        return await text(gateway, request, "/v1/responses")

    @router.post("/images/generations")
    async def generations(request: Request) -> Response:
        return await images(gateway, request)

    @router.post("/images/edits")
    async def edits(request: Request) -> Response:
        return await images(gateway, request, edit=True)

    @router.get("/images/files/{name}")
    async def picture(request: Request, name: str) -> Response:
        match = _PICTURE.fullmatch(name)
        data = gateway.pictures.get(match[1], request.state.caller.id) if match else None
        if match is None or data is None or format_of(data) != match[2]:
            raise RouteNotFound("There is no such picture, or its time is over; ask for response_format b64_json to keep it.")
        return Response(data, media_type=f"image/{match[2]}", headers=PICTURE_HEADERS)

    @router.get("/models")
    async def models(request: Request) -> Response:
        caller: Caller = request.state.caller
        return json_response(listing([model_json(gateway, s) for s in gateway.directory.models.values() if caller.may_use(s.id)]))

    @router.get("/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        served, caller = gateway.directory.get(name), request.state.caller
        if served is None or not caller.may_use(served.id):
            listed = ", ".join([ident for ident in gateway.directory.models if caller.may_use(ident)][: admission.LISTED]) or "nothing"
            raise ModelNotFound(f"There is no model of this name here. Served: {listed}.", param="model")
        return json_response(model_json(gateway, served))

    return router


async def text(gateway: Gateway, request: Request, route: Route) -> Response:
    """1. Read. 2. Parse and check. 3. Admit. 4. A response that takes the seat when it is called; it counts against the key's limits
    from here on, until `record` says that it has ended."""
    arrived_s = time.monotonic()
    raw = await read_body(request, gateway.settings.limits.body_bytes, gateway.settings.deadlines.body_s)  # 1
    asked = read_text_request(route, raw)  # 2
    view = await known_model(gateway, request, asked.model)
    served = admission.admit(view, asked.kind, time.monotonic())  # 3
    admission.check_text(asked, served)
    outcome = Outcome(request.state.request_id, request.state.engine_request_id, route, arrived_s, served.id, asked.stream)
    outcome.caller = request.state.caller
    response = TextResponse(gateway, served, outcome, asked, getattr(request.state, "tried", frozenset()))  # 4
    obey_keep_alive(response, asked.keep_alive, asked.dropped)
    take(gateway, request, outcome)
    return response


async def images(gateway: Gateway, request: Request, edit: bool = False) -> Response:
    """As `text`, with the size in the place of the context."""
    arrived_s = time.monotonic()
    raw = await read_body(request, gateway.settings.limits.body_bytes, gateway.settings.deadlines.body_s)
    asked = read_edit_request(raw, request.headers.get("content-type", "")) if edit else read_image_request(raw)
    only = gateway.directory.only("image")
    if asked.model is None and only is None:
        raise InvalidValue("model is required.", param="model")
    view = await known_model(gateway, request, asked.model or (only.id if only else ""))
    served = admission.admit(view, "image", time.monotonic())
    largest = admission.largest_image(served)
    held = Need(width_px=largest.lane.width_px or 0, height_px=largest.lane.height_px or 0) if largest else None
    size_px = definite_size(asked, served.spec.image if served.spec else None, held)
    report = None
    if largest is not None and size_px is not None and not admission.image_fits(served, size_px) and served.spec and largest.placement:
        report = gateway.fits.of_image(served.spec, largest.placement, *size_px)
    admission.check_image(asked, served, size_px, report)
    outcome = Outcome(request.state.request_id, request.state.engine_request_id, asked.route, arrived_s, served.id, asked.stream)
    base_url = f"{request.url.scheme}://{request.headers.get('host', '')}"
    outcome.caller = request.state.caller
    response = ImageResponse(gateway, served, outcome, asked, size_px, base_url)
    obey_keep_alive(response, read_keep_alive(asked.body), asked.dropped)
    take(gateway, request, outcome, asked.n)
    return response


def obey_keep_alive(response: SeatedResponse, asked: KeepAlive | None, dropped: tuple[str, ...]) -> None:
    """The engine never sees the field; where the model is loaded on demand it is not left out but obeyed."""
    if asked is not None and any(backend.on_demand for backend in response.served.backends):
        response.keep_alive = asked
        response.dropped = header_value(tuple(name for name in dropped if name != FIELD))


def take(gateway: Gateway, request: Request, outcome: Outcome, images: int = 0) -> None:
    """It counts from here on, until `record`: as the one request of its Idempotency-Key, and against its key's limits. Raises ApiError."""
    caller: Caller = request.state.caller
    outcome.once = gateway.once.take(caller.id, request.headers.get("idempotency-key"), time.monotonic())
    try:
        gateway.ledger.take(outcome, images)
    except ApiError:
        if outcome.once is not None:
            gateway.once.end(outcome.once, False, time.monotonic())
        raise


async def known_model(gateway: Gateway, request: Request, name: str) -> View:
    """What is known about the model that a request names. Raises PermissionDenied when its key may not use it."""
    caller: Caller = request.state.caller
    served = gateway.directory.get(name)
    gateway.ledger.door.use(caller, name, served.id if served else None)
    request.state.model_id = served.id if served else None
    return await gateway.view(name, caller)


def model_json(gateway: Gateway, served: Served) -> dict[str, Any]:
    """OpenAI's model object with what a client of this rig wants to know beside it."""
    states = sorted({str(backend.state) for backend in served.backends})
    more: dict[str, Any] = {
        "kind": served.kind,
        "state": "ready" if served.ready else states[0],
        "engines": sorted({str(backend.engine) for backend in served.backends if backend.engine}),
        "cards": sorted({backend.card.id for backend in served.backends if backend.card}),
        "simulated": any(backend.card.simulated for backend in served.backends if backend.card),
        "aliases": list(served.spec.aliases) if served.spec else [],
    }
    largest = admission.largest_image(served)
    if largest is not None:
        more["largest_image"] = {"width_px": largest.lane.width_px, "height_px": largest.lane.height_px}
    elif served.kind != "image":
        more["max_model_len"] = served.context_tokens  # vLLM's name for it: clients of vLLM read it here
    return model_object(served.id, gateway.created, "rigserve", **more)
