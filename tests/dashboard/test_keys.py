"""Signing in, and keys and usage for administrators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dashboard.pictures import take
from tests.gateway.keyed import Keyed

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
Open = Callable[..., "Page"]


def sign_in(page: Page, secret: str) -> None:
    page.get_by_label("API key").fill(secret)
    page.get_by_role("button", name="Sign in").click()


def test_a_wrong_key_gets_nobody_in_and_is_not_kept(keyed: Keyed, open_page: Open) -> None:
    page = open_page(keyed.gateway.url + "/dashboard")
    page.get_by_text("It says: ").wait_for()
    sign_in(page, "rs-wrong")
    assert "API key is missing, unknown, expired or revoked" in page.get_by_role("alert").inner_text()
    assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"
    assert page.get_by_role("navigation").count() == 0


def test_a_user_signs_in_chats_and_leaves(keyed: Keyed, open_page: Open) -> None:
    secret = keyed.make("alice", models=["solo"])[1]
    page = open_page(keyed.gateway.url + "/dashboard#/chat")
    sign_in(page, secret)
    page.get_by_text("alice (user)").wait_for()
    page.wait_for_function("() => document.querySelector('input[list]').value === 'solo'")
    page.get_by_label("Message").fill("hi")
    page.get_by_role("button", name="Send").click()
    page.locator(".turn.assistant .meter").wait_for()
    elsewhere = page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href + document.documentElement.outerHTML")
    assert secret not in elsewhere
    assert page.context.cookies() == []
    page.reload()
    page.get_by_text("alice (user)").wait_for()
    other = page.context.new_page()
    other.goto(keyed.gateway.url + "/dashboard")
    other.get_by_label("API key").wait_for()  # another tab knows nothing of it
    other.close()
    page.get_by_role("link", name="Keys & usage").click()
    page.get_by_text("Keys are for administrators").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"


def test_an_admin_makes_and_revokes_a_key(keyed: Keyed, open_page: Open, screenshots: Path) -> None:
    page = open_page(keyed.gateway.url + "/dashboard#/keys")
    sign_in(page, keyed.secrets[0])
    page.get_by_text("New key").click()
    page.get_by_label("Name").fill("workshop")
    page.get_by_label("Requests a minute").fill("30")
    page.get_by_label("Expires after days").fill("90")
    page.get_by_role("button", name="Create").click()
    secret = page.locator(".secret code").inner_text()
    assert secret.startswith("rs-")
    assert keyed.ask(secret).status_code == 200
    mine = page.get_by_role("row", name="workshop")
    assert "30 requests/minute" in mine.inner_text()
    page.get_by_role("button", name="Done").click()
    assert secret not in page.content()
    page.get_by_role("button", name="Look again").click()
    page.get_by_role("region", name="Usage").get_by_role("cell", name="workshop").first.wait_for()
    take(page, screenshots / "keys.png")
    mine.get_by_role("button", name="Revoke workshop").click()
    mine.get_by_role("button", name="Revoke workshop for good").click()
    mine.get_by_text("revoked").wait_for()
    assert keyed.ask(secret).status_code == 401
    page.get_by_role("button", name="Show (it notes").click()
    assert "revoke" in page.get_by_role("region", name="Audit log").inner_text()


def test_a_key_that_is_revoked_meanwhile_asks_for_another(keyed: Keyed, open_page: Open) -> None:
    ident, secret = keyed.make("brief")
    page = open_page(keyed.gateway.url + "/dashboard#/models")
    sign_in(page, secret)
    page.get_by_role("listitem", name="solo").wait_for()
    keyed.gateway.http.delete(f"/admin/keys/{ident}", headers={"authorization": f"Bearer {keyed.secrets[0]}"})
    page.get_by_text("not valid any more").wait_for()
    assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"


def test_another_sites_page_may_not_act(keyed: Keyed) -> None:
    """No cookie says who asks, so a page that rides on a browser has nothing; and its Origin gives it away, for every verb."""
    for verb, path in (("POST", "/admin/keys"), ("DELETE", "/admin/keys/key_x"), ("PATCH", "/admin/keys/key_x"), ("POST", "/v1/fit")):
        headers = {"origin": "https://evil.example", "authorization": f"Bearer {keyed.secrets[0]}"}
        answer = keyed.gateway.http.request(verb, path, headers=headers, content=b"{}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    rebound = keyed.gateway.http.get("/dashboard", headers={"host": "evil.example"})
    assert rebound.status_code == 400
