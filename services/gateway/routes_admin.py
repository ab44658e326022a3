"""Routes for administrators: keys and the audit log. Each leaves one row in the audit log, or is not done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from services.gateway.body import parse_object, read_body
from services.gateway.core import Gateway
from services.gateway.json_response import json_response
from services.keys.key import Key, Role
from services.keys.store import AuditRow, KeyStore, NoSuchKey
from services.keys.wish import Wish, WishError, life_of, limits_of, models_of, name_of, role_of
from services.wire.errors import InvalidValue, RouteNotFound
from services.wire.shapes import listing

BODY_BYTES = 64 * 1024
T = TypeVar("T")
FIELDS = ("name", "role", "models", "limits", "expires_in_s")


def admin_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/admin")
    ledger = gateway.ledger

    @router.get("/keys")
    async def keys(request: Request) -> Response:
        def read(store: KeyStore) -> list[dict[str, object]]:
            store.note(actor(request), "list")
            return [key.to_json(time.time()) for key in store.load()[1]]

        return json_response(listing(await ledger.act(read)))

    @router.post("/keys")
    async def create(request: Request) -> Response:
        wish = read_wish(await _object(gateway, request, FIELDS))
        key, secret = await ledger.act(lambda store: store.create(wish, actor(request)))
        return json_response(key.to_json(time.time()) | {"key": secret}, 201, {"cache-control": "no-store"})

    @router.patch("/keys/{key_id}")
    async def limit(request: Request, key_id: str) -> Response:
        asked = await _object(gateway, request, ("limits",))
        if "limits" not in asked:
            raise InvalidValue("limits is required; null takes all limits away.", param="limits")
        limits = _checked(lambda: limits_of(asked["limits"]))
        key = await _of_one(gateway, lambda store: store.limit(key_id, limits, actor(request)))
        return json_response(key.to_json(time.time()))

    @router.delete("/keys/{key_id}")
    async def revoke(request: Request, key_id: str) -> Response:
        key = await _of_one(gateway, lambda store: store.revoke(key_id, actor(request)))
        return json_response(key.to_json(time.time()))

    @router.get("/audit")
    async def audit(request: Request) -> Response:
        def read(store: KeyStore) -> list[AuditRow]:
            store.note(actor(request), "read_audit")
            return store.audit()

        rows = await ledger.act(read)
        return json_response(listing([{"at": r.at, "actor": r.actor, "act": r.act, "key_id": r.key_id, "detail": r.detail} for r in rows]))

    return router


def actor(request: Request) -> str:
    """The admin key's id."""
    return str(request.state.caller.id)


def read_wish(asked: dict[str, Any]) -> Wish:
    """Raises InvalidValue with param."""
    role = Role.USER if asked.get("role") is None else asked["role"]
    return _checked(lambda: Wish(
        name_of(asked.get("name")), role_of(role), models_of(asked.get("models")), limits_of(asked.get("limits")),
        life_of(asked.get("expires_in_s")),
    ))  # fmt: skip


def _checked(read: Callable[[], T]) -> T:
    try:
        return read()
    except WishError as error:
        raise InvalidValue(str(error), param=error.param) from None


async def _object(gateway: Gateway, request: Request, fields: tuple[str, ...]) -> dict[str, Any]:
    asked = parse_object(await read_body(request, BODY_BYTES, gateway.settings.deadlines.body_s))
    for name in asked:
        if name not in fields:
            raise InvalidValue(f"This route reads {', '.join(fields)}, and nothing else.", param=name[:64])
    return asked


async def _of_one(gateway: Gateway, change: Callable[[KeyStore], Key]) -> Key:
    try:
        return await gateway.ledger.act(change)
    except NoSuchKey:
        raise RouteNotFound("There is no key of that id; GET /admin/keys lists them.") from None
