"""Which route is for whom. A route that is not in the table is for administrators: forgetting one shuts it, it never opens it.

`tests/gateway/test_admin.py` asks every route of the router as every kind of caller and compares with this table.
"""

from __future__ import annotations

from enum import StrEnum

from fastapi import Request

from services.gateway.core import Gateway
from services.gateway.door import Caller, Mode
from services.keys.key import Role
from services.wire.errors import InvalidApiKey, PermissionDenied


class Audience(StrEnum):
    """ALL: no key is looked at. USER: user keys, and anyone where there are no keys. ANY_KEY: as USER, and admin keys. STATUS: as ANY_KEY,
    and anyone with --open-status. SCRAPER: as STATUS, without user keys: it tells what all do together. ADMIN: admin keys, so nobody where
    there are no keys. OPERATOR: as ADMIN, and this machine where there are no keys."""

    ALL = "all"
    USER = "user"
    ANY_KEY = "any_key"
    STATUS = "status"
    SCRAPER = "scraper"
    OPERATOR = "operator"
    ADMIN = "admin"


ROUTES: dict[tuple[str, str], Audience] = {
    ("GET", "/healthz"): Audience.ALL,
    ("GET", "/readyz"): Audience.ALL,
    ("GET", "/openapi.json"): Audience.ANY_KEY,
    ("GET", "/metrics"): Audience.SCRAPER,
    ("POST", "/v1/chat/completions"): Audience.USER,
    ("POST", "/v1/completions"): Audience.USER,
    ("POST", "/v1/embeddings"): Audience.USER,
    ("POST", "/v1/rerank"): Audience.USER,
    ("POST", "/v1/messages"): Audience.USER,
    ("POST", "/v1/responses"): Audience.USER,
    ("POST", "/v1/images/generations"): Audience.USER,
    ("POST", "/v1/images/edits"): Audience.USER,
    ("GET", "/v1/images/files/{name}"): Audience.USER,
    ("GET", "/v1/models"): Audience.ANY_KEY,
    ("GET", "/v1/models/{name:path}"): Audience.ANY_KEY,
    ("GET", "/v1/cards"): Audience.STATUS,
    ("GET", "/v1/throughput"): Audience.STATUS,
    ("POST", "/v1/fit"): Audience.ANY_KEY,
    ("GET", "/v1/usage"): Audience.ANY_KEY,
    ("GET", "/v1/me"): Audience.ANY_KEY,
    ("GET", "/v1/refusals"): Audience.ANY_KEY,
    ("GET", "/v1/catalogue"): Audience.ANY_KEY,
    ("GET", "/v1/throughput/history"): Audience.STATUS,
    ("GET", "/dashboard"): Audience.ALL,
    ("GET", "/dashboard/{name}"): Audience.ALL,
    ("GET", "/admin/keys"): Audience.ADMIN,
    ("POST", "/admin/keys"): Audience.ADMIN,
    ("PATCH", "/admin/keys/{key_id}"): Audience.ADMIN,
    ("DELETE", "/admin/keys/{key_id}"): Audience.ADMIN,
    ("GET", "/admin/audit"): Audience.ADMIN,
    ("POST", "/admin/models/{what}"): Audience.OPERATOR,
}


def methods_of(path: str) -> list[str]:
    """What the Allow header of a 405 names."""
    methods = {method for method, of_path in ROUTES if of_path == path}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


NO_ADMIN = "This route needs an admin key; the first one is made with `rigserve keys create NAME --role admin`."


class Guard:
    """A dependency of the whole application: it runs before any route, and before a body is read."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, request: Request) -> None:
        """Raises InvalidApiKey, PermissionDenied, RateLimited or KeysUnavailable; else `request.state.caller` says who asks."""
        audience = ROUTES.get((request.method, request.scope["route"].path), Audience.ADMIN)
        request.state.caller = self._caller(request, audience)

    def _caller(self, request: Request, audience: Audience) -> Caller | None:
        """1. A route for all. 2. Who asks? 3. Nobody in particular, where there are no keys: not the admin routes. 4. A key: of the right
        role."""
        door = self._gateway.ledger.door
        if audience is Audience.ALL or (audience in (Audience.STATUS, Audience.SCRAPER) and self._gateway.settings.open_status):  # 1
            return None
        address = request.client.host if request.client else ""
        given = [value for name, value in request.scope["headers"] if name == b"authorization"]
        caller = door.enter(given, address)  # 2
        if door.mode is Mode.UNKEYED:  # 3
            if audience is Audience.ADMIN or (audience is Audience.OPERATOR and not self._gateway.settings.loopback):
                raise InvalidApiKey(NO_ADMIN)
            return caller
        no_user = (Audience.SCRAPER, Audience.ADMIN, Audience.OPERATOR)
        wrong = Role.ADMIN if audience is Audience.USER else Role.USER if audience in no_user else None
        if caller.role is wrong:  # 4
            raise PermissionDenied(f"This route is not for {caller.role} keys.")
        return caller
