"""Each page, on fake engines, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.sizing.units import gib
from tests.dashboard.pictures import take
from tests.dashboard.rig import CHAT, PAINTER, TINY, TOO_LARGE, Rig
from tests.gateway.rig import chat

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
Open = Callable[..., "Page"]


def use(rig: Rig) -> None:
    """A little traffic, so that there is something to see."""
    rig.engines["chat"].set(itl_s=0.002, ttft_s=0.02)
    for tokens in (40, 80, 60):
        assert rig.gateway.post("/v1/chat/completions", chat(CHAT, stream=True, max_tokens=tokens)).status_code == 200
    assert rig.gateway.post("/v1/images/generations", {"model": PAINTER, "prompt": "x", "steps": 4}).status_code == 200


def row(page: Page, name: str) -> Any:
    return page.get_by_role("listitem", name=name, exact=True)


def test_cards(rig: Rig, open_page: Open, screenshots: Path) -> None:
    use(rig)
    page = open_page(rig.page)
    ti = row(page, "NVIDIA GeForce RTX 3060 Ti")
    ti.get_by_text("(n ").wait_for()
    said = ti.inner_text()
    for figure in ("ready", "141 W", "61 °C", "x4 gen 3", "KV cache", "Weights", "in use now: 5.87 GiB"):
        assert figure in said, figure
    assert ti.get_by_role("img", name="Output tokens per second, last 5 minutes").count() == 1
    rate = rig.gateway.http.get("/v1/throughput?window=1m").json()["cards"][0]["output_tokens_per_s"]
    assert rate > 0
    bill = rig.gateway.http.get("/v1/cards").json()["data"][0]["placements"][0]["bill"]
    assert f"Weights {gib(bill['weights_bytes'])}" in said
    take(page, screenshots / "cards.png")


def test_what_is_unknown_says_why_and_is_never_zero(rig: Rig, open_page: Open) -> None:
    page = open_page(rig.page)
    simulated = row(page, "Simulated CPU card")
    simulated.get_by_text("simulated", exact=True).wait_for()
    for fact, why in (("Power", "a simulated card has no sensors"), ("PCIe link", "a simulated card has no link"),
                      ("Temperature", "a simulated card has no sensors")):
        assert f"{fact}\nunknown: {why}" in simulated.inner_text()
    empty = row(page, "NVIDIA GeForce GTX 1060 3GB").inner_text()
    assert "in use now: unknown: no worker watches this card" in empty
    assert "unknown: nothing is planned on this card" in empty
    assert " 0 " not in empty.replace("1060", "")


def test_models(rig: Rig, open_page: Open, screenshots: Path) -> None:
    use(rig)
    page = open_page(rig.page + "#/models")
    for model in (CHAT, PAINTER, TINY):
        row(page, model).wait_for()
    assert "context of 4,096 tokens" in row(page, CHAT).inner_text()
    assert "images of up to 512×512 px" in row(page, PAINTER).inner_text()
    row(page, CHAT).get_by_role("link").click()
    assert page.get_by_label("Model").input_value() == CHAT
    page.goto(rig.page + "#/models")
    row(page, CHAT).get_by_text("(n ").wait_for()
    take(page, screenshots / "models.png")


def test_a_refusal_is_drawn(rig: Rig, open_page: Open, screenshots: Path) -> None:
    answer = rig.gateway.post("/v1/chat/completions", chat(TOO_LARGE))
    assert answer.status_code == 422
    page = open_page(rig.page + "#/refusals")
    refused = page.get_by_role("list", name="Refused requests").get_by_role("listitem").filter(has_text="422 model_does_not_fit").first
    refused.wait_for()
    report = next(r for r in answer.json()["fit"] if "3060" in r["card_name"])
    assert f"needs {gib(report['need_bytes'])} of {gib(report['have_bytes'])}" in refused.inner_text()
    bar = refused.get_by_role("img", name=f"{TOO_LARGE} on {report['card_name']}: Weights").first
    assert "more than there is" in (bar.get_attribute("aria-label") or "")
    total = sum(float(rect.get_attribute("width") or 0) for rect in bar.locator("rect.seg").all())
    assert total == pytest.approx(1000, abs=0.5), "the bill's lines fill the bar"
    edge = float(bar.locator("line.edge").get_attribute("x1") or 0)
    assert edge == pytest.approx(1000 * report["have_bytes"] / report["need_bytes"], abs=0.5), "the card's end is where its bytes end"
    assert "Refused by the plan" in page.inner_text("main")
    take(page, screenshots / "refusals.png")


def test_fit_explorer_says_what_the_route_says(rig: Rig, open_page: Open, screenshots: Path) -> None:
    page = open_page(rig.page + "#/fit")
    page.get_by_label("Model").select_option(CHAT)
    page.get_by_label("Cards", exact=True).fill("GTX 1060 3GB, RTX 3060 Ti")
    page.get_by_label("Variant").select_option("q8_0-gguf")
    context = page.get_by_role("slider", name="Context")
    assert context.get_attribute("aria-valuetext") == "4,096 tokens"
    small, large = (page.locator(".report", has_text=name) for name in ("GTX 1060 3GB", "RTX 3060 Ti"))
    small.get_by_text("fits", exact=True).wait_for()
    page.get_by_role("slider", name="Concurrency").fill("24")
    small.get_by_text("does not fit").wait_for()
    large.get_by_text("fits", exact=True).wait_for()
    asked = json.loads(page.locator("pre").text_content().partition("\n")[2])  # type: ignore[union-attr]
    assert asked == {"model": CHAT, "variant": "q8_0-gguf", "cards": "GTX 1060 3GB, RTX 3060 Ti", "context_tokens": 4096, "sequences": 24}
    reports = rig.gateway.post("/v1/fit", asked).json()["reports"]
    for report in reports:
        shown = page.locator(".report", has_text=report["card_name"])
        assert shown.locator(".verdict").inner_text() == report["verdict"].replace("_", " ")
        assert shown.locator(".sum").inner_text() == f"needs {gib(report['need_bytes'])} of {gib(report['have_bytes'])}"
        legend = shown.locator(".legend").inner_text()
        for line, name in (("weights", "Weights"), ("kv_cache", "KV cache"), ("activation", "Activations"), ("engine", "Engine")):
            assert f"{name} {gib(report['bill'][line + '_bytes'])}" in legend
        assert report["reason"] in shown.inner_text()
    assert page.get_by_role("status").inner_text() == f"{CHAT} fits 1 of 2 cards."
    take(page, screenshots / "fit.png")
    context.press("End")
    assert context.get_attribute("aria-valuetext") == "32,768 tokens"
    large.get_by_text("does not fit").wait_for()


def test_fit_explorer_shows_what_is_wrong_with_a_card(rig: Rig, open_page: Open) -> None:
    page = open_page(rig.page + "#/fit")
    page.get_by_label("Cards", exact=True).fill("Voodoo 2")
    assert "No card is called" in page.get_by_role("alert").inner_text()


def test_plan(rig: Rig, open_page: Open, screenshots: Path) -> None:
    page = open_page(rig.page + "#/plan")
    said = row(page, "NVIDIA GeForce RTX 3060 Ti")
    said.get_by_text(CHAT).wait_for()
    assert "4,096 tokens × 8 at once" in said.inner_text()
    assert "Nothing is planned on this card." in row(page, "NVIDIA GeForce GTX 1060 3GB").inner_text()
    assert "GTX 1060 3GB stays empty" in page.inner_text("main")
    take(page, screenshots / "plan.png")


def test_a_gateway_that_is_gone_is_said_and_found_again(rig: Rig, open_page: Open) -> None:
    page = open_page(rig.page)
    row(page, "Simulated CPU card").wait_for()
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("alert").wait_for()
    assert "does not answer" in page.get_by_role("alert").inner_text()
    page.unroute("**/v1/**")
    page.get_by_role("alert").wait_for(state="detached")


def test_phone_and_dark(rig: Rig, open_page: Open, screenshots: Path) -> None:
    use(rig)
    page = open_page(rig.page, viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True, is_mobile=True)
    row(page, "NVIDIA GeForce RTX 3060 Ti").get_by_text("(n ").wait_for()
    for name in ("cards", "models", "refusals", "fit", "plan", "chat", "images", "keys"):
        page.goto(f"{rig.page}#/{name}")
        page.locator(f"nav a[aria-current][href='#/{name}']").wait_for()
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is wider than a phone by {wide} px"
    page.goto(rig.page + "#/cards")
    row(page, "NVIDIA GeForce RTX 3060 Ti").get_by_text("(n ").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 25)"
    take(page, screenshots / "cards-phone-dark.png")
    page.get_by_label("Theme").select_option("light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 243)"
    page.reload()
    page.get_by_label("Theme").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 243)"
