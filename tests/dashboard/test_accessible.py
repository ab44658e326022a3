"""axe-core finds nothing serious on any page, in light and dark, on a desk and on a phone; and the keyboard reaches everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.dashboard.rig import CHAT, TOO_LARGE, Rig
from tests.gateway.keyed import Keyed
from tests.gateway.rig import chat

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
Open = Callable[..., "Page"]
PAGES = ("cards", "models", "refusals", "fit", "plan", "chat", "images", "keys")


def serious(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:160]}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_serious_violation(rig: Rig, open_page: Open, scheme: str, width: int) -> None:
    rig.gateway.post("/v1/chat/completions", chat(TOO_LARGE))
    rig.gateway.post("/v1/chat/completions", chat(CHAT, stream=True))
    page = open_page(rig.page, color_scheme=scheme, viewport={"width": width, "height": 844})
    for name in PAGES:
        page.goto(f"{rig.page}#/{name}")
        page.locator(f"nav a[aria-current][href='#/{name}']").wait_for()
        page.wait_for_timeout(400)
        if name == "chat":
            page.get_by_label("Model").fill(TOO_LARGE)
            page.get_by_label("Message").fill("hi")
            page.get_by_role("button", name="Send").click()
            page.get_by_role("alert").wait_for()
        assert serious(page) == [], name


def test_no_serious_violation_where_keys_are(keyed: Keyed, open_page: Open) -> None:
    page = open_page(keyed.gateway.url + "/dashboard#/keys")
    page.get_by_label("API key").wait_for()
    assert serious(page) == []
    page.get_by_label("API key").fill(keyed.secrets[0])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("New key").click()
    page.get_by_role("row", name="ops").wait_for()
    assert serious(page) == []


def test_axe_finds_what_is_wrong(rig: Rig, open_page: Open) -> None:
    page = open_page(rig.page)
    page.get_by_role("listitem").first.wait_for()
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert any(line.startswith("label:") for line in serious(page))


def test_keyboard_alone(rig: Rig, open_page: Open) -> None:
    page = open_page(rig.page)
    page.get_by_role("listitem", name="Simulated CPU card").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("link", name="Fit", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Fit explorer").wait_for()
    assert page.title() == "Fit · rigserve"
    page.wait_for_function("() => document.activeElement.id === 'main'")
    slider = page.get_by_role("slider", name="Concurrency")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "2 at once"
