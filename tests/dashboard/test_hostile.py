"""Whatever a model, a name or an error says is shown as the text that it is; and the policy would hold if a page forgot."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.dashboard.conftest import Seen
from tests.dashboard.rig import CHAT, Rig
from tests.dashboard.xss import PAYLOADS

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser
Open = Callable[..., "Page"]
PAGES = ("cards", "models", "refusals", "fit", "plan", "chat", "images", "keys")
# What only markup could have made, and handlers, which only a parser sets as attributes.
STRANGE = """() => [...document.querySelectorAll(
  'iframe, object, embed, svg script, svg a, svg use, video, audio, marquee, math, base, meta[http-equiv], template, style, form[action]')]
  .concat([...document.querySelectorAll('*')].filter(one => [...one.attributes].some(a => a.name.startsWith('on') || a.name === 'style'
    || (['href', 'src', 'action', 'formaction'].includes(a.name) && !/^(#|\\/dashboard\\/|blob:http:)/.test(a.value) && a.value !== ''))))
  .map(one => one.outerHTML.slice(0, 200))"""


def nothing_ran(page: Page) -> None:
    assert page.evaluate("window.pwned_by ?? []") == []
    assert page.evaluate(STRANGE) == []
    assert page.evaluate("document.scripts.length") == 1


ARMED = "() => { window.pwned = () => { (window.pwned_by ??= []).push(new Error().stack); }; }"


def test_model_output(rig: Rig, open_page: Open) -> None:
    page = open_page(f"{rig.page}#/chat?model={CHAT}")
    page.evaluate(ARMED)
    for number, payload in enumerate(PAYLOADS):
        rig.engines["chat"].set(said=payload)
        page.get_by_label("Message").fill(f"{number}: {payload}")
        page.get_by_role("button", name="Send").click()
        page.locator(".turn.assistant").nth(number).locator(".meter", has_text=" tokens").wait_for()
        assert page.locator(".turn.assistant .said").nth(number).text_content() == payload
    page.wait_for_timeout(200)  # for what would be fetched or run a little later
    nothing_ran(page)


def hostile(value: Any, texts: Iterator[str]) -> Any:
    """The same answer with a payload in the place of every text, but for the words that the page decides by."""
    if isinstance(value, dict):
        keep = ("kind", "role", "object", "window", "verdict")
        return {name: one if name in keep else hostile(one, texts) for name, one in value.items()}
    if isinstance(value, list):
        return [hostile(one, texts) for one in value]
    return next(texts) if isinstance(value, str) else value


def endless(first: int) -> Iterator[str]:
    """All payloads, again and again, beginning elsewhere on each page."""
    return itertools.cycle(PAYLOADS[first:] + PAYLOADS[:first])


@pytest.mark.parametrize("name", PAGES)
def test_names_and_reasons(rig: Rig, open_page: Open, name: str) -> None:
    rig.gateway.post("/v1/chat/completions", {"model": "qwen2.5-32b-instruct", "messages": [{"role": "user", "content": "x"}]})
    rig.gateway.post("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": "x"}]})
    page = open_page(rig.page + ("#/models" if name == "cards" else "#/cards"))
    page.locator(".row").first.wait_for()
    page.evaluate(ARMED)
    texts = endless(PAGES.index(name) * 6)
    met: list[str] = []

    def answer(route: Route) -> None:
        given = route.fetch()
        met.append(route.request.url)
        route.fulfill(response=given, body=json.dumps(hostile(given.json(), texts)))

    page.route("**/v1/**", answer)
    page.route("**/admin/**", answer)
    page.goto(f"{rig.page}#/{name}")
    page.wait_for_function("() => document.getElementById('main').textContent.includes('pwned')")
    page.wait_for_timeout(500)  # for the answers that come later, and for what would be fetched
    assert met
    nothing_ran(page)
    page.unroute_all(behavior="ignoreErrors")


@pytest.mark.parametrize("place", ["before", "event"])
def test_errors(rig: Rig, open_page: Open, place: str) -> None:
    page = open_page(f"{rig.page}#/chat?model={CHAT}")
    page.evaluate(ARMED)
    current = [""]

    def answer(route: Route) -> None:
        error = {"error": {"message": current[0], "type": current[0], "param": current[0], "code": current[0]}}
        if place == "before":
            route.fulfill(status=400, content_type="application/json", body=json.dumps(error))
        else:
            route.fulfill(status=200, content_type="text/event-stream", body=f"data: {json.dumps(error)}\n\n")

    page.route("**/v1/chat/completions", answer)
    for number, payload in enumerate(PAYLOADS):
        current[0] = payload
        page.get_by_label("Message").fill("x")
        page.get_by_role("button", name="Send").click()
        said = page.get_by_role("alert").nth(number).locator("p").first
        said.wait_for(state="attached")
        assert said.text_content() == payload
    nothing_ran(page)


def test_the_policy_holds_where_a_page_would_not(rig: Rig, open_page: Open, seen: Seen) -> None:
    """The other side of the tests above: what they look for is found when it is there, and the browser refuses it."""
    seen.expected_violations = True
    page = open_page(rig.page)
    page.evaluate(ARMED)
    refusal = page.evaluate("() => { try { document.body.innerHTML = '<img src=x>' } catch (error) { return String(error) } }")
    assert "TrustedHTML" in refusal
    page.evaluate("""() => {
      const img = document.createElement('img'); img.setAttribute('src', 'https://evil.example/leak.png'); document.body.append(img);
      const frame = document.createElement('iframe'); frame.setAttribute('src', '/healthz'); document.body.append(frame);
      const link = document.createElement('a'); link.setAttribute('href', 'javascript:pwned()'); document.body.append(link); link.click();
      const div = document.createElement('div');
      try { div.setAttribute('onclick', 'pwned()') } catch {} document.body.append(div); div.click();
      fetch('https://evil.example/').catch(() => 0);
    }""")
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned_by ?? []") == []
    refused = {line.split()[0] for line in page.evaluate("window.__violations")}
    assert {"img-src", "connect-src", "script-src-elem"} <= refused
    assert refused & {"frame-src", "default-src"}
    assert len(page.evaluate(STRANGE)) >= 3, "what the other tests call strange"
