"""Every route as every kind of caller, from the router itself; the admin routes and their audit log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute

from services.gateway import app as app_module
from services.gateway.access import ROUTES, Audience
from services.gateway.core import Gateway, Inputs
from services.gateway.settings import Settings
from tests.gateway.keyed import Keyed, bearer, start_keyed

pytestmark = pytest.mark.slow

CALLERS = ("none", "wrong", "user", "admin", "revoked", "expired")
# What a caller may get past the guard with; everybody else gets the number.
PASSES = {
    Audience.ALL: set(CALLERS), Audience.USER: {"user"}, Audience.ANY_KEY: {"user", "admin"},
    Audience.STATUS: {"user", "admin"}, Audience.SCRAPER: {"admin"}, Audience.ADMIN: {"admin"}, Audience.OPERATOR: {"admin"},
}  # fmt: skip


def routes_of_the_router(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Method and path of every route that the application has."""
    apps: list[Any] = []
    make = app_module.FastAPI
    monkeypatch.setattr(app_module, "FastAPI", lambda **more: apps.append(make(**more)) or apps[-1])
    app_module.make_app(Gateway(Inputs(Settings(backends=(("solo", "http://127.0.0.1:9"),)), None, None)))
    assert all(isinstance(route, APIRoute) for route in apps[0].routes), "no mount, no websocket, no docs"
    return {(method, route.path) for route in apps[0].routes for method in route.methods}


async def test_every_route_is_in_the_table_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert routes_of_the_router(monkeypatch) == set(ROUTES)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Keyed, dict[str, str | None]]]:
    """A gateway without --open-status, and one secret of each kind."""
    keyed = start_keyed(tmp_path_factory.mktemp("admin"), status_needs_key=True)
    secrets: dict[str, str | None] = {"none": None, "wrong": "rs-wrong", "admin": keyed.secrets[0]}
    secrets["user"] = keyed.make("user")[1]
    gone, secrets["revoked"] = keyed.make("gone")
    assert keyed.gateway.http.delete(f"/admin/keys/{gone}", headers=bearer(keyed.secrets[0])).status_code == 200
    secrets["expired"] = keyed.make("late", expires_in_s=0.001)[1]
    yield keyed, secrets
    keyed.stop()


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_route_by_role(keyed: tuple[Keyed, dict[str, str | None]], method: str, path: str, caller: str) -> None:
    """401 for who is nobody, 403 for the wrong role; who may pass gets any other answer of the route."""
    rig, secrets = keyed
    real = path.replace("{name}", "x.png").replace("{name:path}", "solo").replace("{key_id}", "key_none")
    answer = rig.gateway.http.request(method, real, headers=bearer(secrets[caller]), content=b"" if method in ("POST", "PATCH") else None)
    if caller in PASSES[ROUTES[method, path]]:
        assert answer.status_code not in (401, 403, 429, 500), answer.text
    elif caller in ("user", "admin"):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    else:
        assert answer.status_code in (401, 429), "429: many wrong ones from here"
        assert answer.json()["error"]["code"] in ("invalid_api_key", "rate_limit_exceeded")


@pytest.mark.parametrize("verb", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/admin/keys", "/admin/keys/key_none", "/admin/audit", "/admin", "/admin/", "//admin/keys",
                                  "/admin/keys/", "/ADMIN/keys", "/v1/../admin/keys"])
def test_no_verb_and_no_spelling_opens_the_admin_routes(keyed: tuple[Keyed, dict[str, str | None]], verb: str, path: str) -> None:
    rig, secrets = keyed
    answer = rig.gateway.http.request(verb, path, headers=bearer(secrets["user"]))
    assert answer.status_code in (400, 403, 404, 405)


@pytest.mark.parametrize(("path", "allowed"), [
    ("/admin/keys", "GET, HEAD, POST"), ("/admin/keys/key_none", "DELETE, PATCH"), ("/v1/fit", "POST"), ("/healthz", "GET, HEAD"),
])  # fmt: skip
def test_a_405_names_all_methods_of_the_route(keyed: tuple[Keyed, dict[str, str | None]], path: str, allowed: str) -> None:
    answer = keyed[0].gateway.http.request("PUT", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_readyz_names_no_model_to_nobody(keyed: tuple[Keyed, dict[str, str | None]]) -> None:
    assert keyed[0].gateway.http.get("/readyz").json() == {"status": "ready"}


def test_each_admin_route_leaves_one_row(keyed: tuple[Keyed, dict[str, str | None]]) -> None:
    rig, secrets = keyed
    admin = bearer(secrets["admin"])
    http = rig.gateway.http
    before = len(rig.store.audit())
    made = http.post("/admin/keys", json={"name": "new", "models": ["solo"], "limits": {"concurrency": 2}}, headers=admin)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    ident = made.json()["id"]
    limited = http.patch(f"/admin/keys/{ident}", json={"limits": {"tokens": {"day": 5}}}, headers=admin)
    assert limited.json()["limits"] == {"tokens": {"day": 5}}
    assert http.delete(f"/admin/keys/{ident}", headers=admin).json()["state"] == "revoked"
    listed = http.get("/admin/keys", headers=admin).json()["data"]
    assert made.json()["key"] not in str(listed)
    log = http.get("/admin/audit", headers=admin).json()["data"]
    assert [row["act"] for row in reversed(log[: len(log) - before])] == ["create", "limit", "revoke", "list", "read_audit"]
    assert len({row["actor"] for row in log[: len(log) - before]}) == 1, "the admin key's id"
    assert made.json()["key"] not in str(log)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"name": ""}', b'{"name": 5}', b'{"name": "a", "role": "root"}',
                                  b'{"name": "a", "models": []}', b'{"name": "a", "limits": {"requests": 5}}',
                                  b'{"name": "a", "limits": {"tokens": 0}}', b'{"name": "a", "limits": {"images": false}}',
                                  b'{"name": "a", "limits": {"requests": []}}', b'{"name": "a", "role": ""}',
                                  b'{"name": "a", "expires_in_s": -1}', b'{"name": "a", "key": "rs-mine"}',
                                  b'{"name": "a\\n"}', b'{"name": "a", "limits": {"requests": {"day": 1e999}}}'])
def test_wishes_that_are_none(keyed: tuple[Keyed, dict[str, str | None]], body: bytes) -> None:
    rig, secrets = keyed
    answer = rig.gateway.http.post("/admin/keys", content=body, headers=bearer(secrets["admin"]))
    assert answer.status_code == 400, answer.text


def test_keys_that_are_not_there(keyed: tuple[Keyed, dict[str, str | None]]) -> None:
    rig, secrets = keyed
    for ident in ("key_none", "%00", "'%20OR%201=1", "x" * 300):
        assert rig.gateway.http.delete(f"/admin/keys/{ident}", headers=bearer(secrets["admin"])).status_code == 404
    assert rig.gateway.http.patch("/admin/keys/key_none", json={}, headers=bearer(secrets["admin"])).status_code == 400


def test_another_sites_page_can_not_administer(keyed: tuple[Keyed, dict[str, str | None]]) -> None:
    rig, secrets = keyed
    for verb in ("POST", "PATCH", "DELETE"):
        headers = {**bearer(secrets["admin"]), "origin": "https://evil.example"}
        assert rig.gateway.http.request(verb, "/admin/keys", headers=headers).status_code == 403
