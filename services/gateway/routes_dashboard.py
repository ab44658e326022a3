"""The dashboard: its files, and what its pages ask beside the routes that everybody uses.

The files are the same for all callers and hold nothing of this rig, so no key is asked for them; every figure comes from routes that do.
They are built by `make dashboard` from `dashboard/` and read once, at the start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response

from services.gateway.core import Gateway
from services.gateway.door import Caller, Mode
from services.gateway.json_response import json_response
from services.gateway.throughput_history import history
from services.keys.key import Role
from services.sizing.cards import load_cards
from services.sizing.types import CardSpec, ModelSpec
from services.wire.errors import RouteNotFound
from services.wire.shapes import listing

FILES = {"index.html": "text/html; charset=utf-8", "app.js": "text/javascript; charset=utf-8", "app.css": "text/css; charset=utf-8",
         "icon.svg": "image/svg+xml"}  # fmt: skip
# Nothing but our own files runs or is fetched; pictures are those that the page made of bytes it was sent. Trusted Types: a browser that
# knows them refuses to make markup of a string, whatever the page's code does.
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
          "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin", "cache-control": "no-cache",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asset:
    data: bytes
    media_type: str
    etag: str


def read_assets() -> dict[str, Asset]:
    folder = files("services.gateway") / "dashboard"
    found = {}
    for name, media_type in FILES.items():
        data = (folder / name).read_bytes()
        found[name] = Asset(data, media_type, f'"{sha256(data).hexdigest()[:32]}"')
    return found


def dashboard_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()
    assets = read_assets()

    @router.get("/dashboard")
    async def page(request: Request) -> Response:
        return asset_response(assets["index.html"], request)

    @router.get("/dashboard/{name}")
    async def asset(request: Request, name: str) -> Response:
        if name not in assets:
            raise RouteNotFound("The dashboard has no such file; it begins at /dashboard.")
        return asset_response(assets[name], request)

    @router.get("/v1/me")
    async def me(request: Request) -> Response:
        return json_response(me_json(gateway, request.state.caller))

    @router.get("/v1/refusals")
    async def refusals(request: Request) -> Response:
        caller: Caller = request.state.caller
        return json_response(listing(gateway.refusals.rows(caller.id, caller.role is Role.ADMIN)))

    @router.get("/v1/catalogue")
    async def catalogue() -> Response:
        models = gateway.catalogue.models if gateway.catalogue else ()
        return json_response({"object": "catalogue", "models": [_model(m) for m in models], "cards": [_card(c) for c in load_cards()]})

    @router.get("/v1/throughput/history")
    async def throughput_history() -> Response:
        return json_response(history(gateway, time.monotonic()))

    return router


def asset_response(asset: Asset, request: Request) -> Response:
    headers = HEADERS | {"etag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)


def me_json(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """Who asks, as far as this gateway is concerned. `keyed` false: there are no keys, and none is asked for."""
    key = caller.key
    return {
        "object": "caller", "keyed": gateway.ledger.door.mode is Mode.KEYED, "key_id": caller.id, "name": key.name if key else None,
        "role": str(caller.role), "models": sorted(caller.models) if caller.models is not None else None,
    }  # fmt: skip


def _model(spec: ModelSpec) -> dict[str, Any]:
    """What a question about a model can be made of."""
    return {
        "id": spec.id, "title": spec.title, "kind": spec.kind, "params": spec.params,
        "variants": [{"id": variant.id, "quant": variant.quant} for variant in spec.variants],
        "max_context_tokens": spec.text.max_position_embeddings if spec.text else None,
        "native_px": spec.image.native_px if spec.image else None, "multiple_px": spec.image.multiple_px if spec.image else None,
        "default_steps": spec.image.default_steps if spec.image else None,
    }  # fmt: skip


def _card(spec: CardSpec) -> dict[str, Any]:
    return {"key": spec.key, "vendor": spec.vendor, "vram_bytes": spec.vram_bytes}
