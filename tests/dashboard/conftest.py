"""Pages in a real Chromium. Whatever a test does, no page may throw, meet its own policy, or ask anything of another host."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dashboard import rig as rigs
from tests.gateway.keyed import Keyed, start_keyed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Without the last ones Chromium asks its maker's hosts for news at every start.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
WATCH = """
window.__violations = [];
document.addEventListener('securitypolicyviolation', event => window.__violations.push(event.violatedDirective + ' ' + event.blockedURI));
"""


def why_no_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed; `make browser` installs it"
    if chromium() is None:
        return "no Chromium: apt-get install chromium, or RIGSERVE_CHROMIUM=/path/to/chrome"
    return None


def chromium() -> str | None:
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return os.environ.get("RIGSERVE_CHROMIUM") or next((path for path in found if path), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    why = why_no_browser()
    if why is not None:
        assert not os.environ.get("RIGSERVE_REQUIRE_BROWSER"), f"RIGSERVE_REQUIRE_BROWSER is set, but {why}"
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Seen:
    """What happened in the pages of one test. `expected_violations`: the test tries what the policy forbids."""

    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    expected_violations: bool = False

    def watch(self, page: Page) -> None:
        self.pages.append(page)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self._asked(request.url))
        page.add_init_script(WATCH)
        page.set_default_timeout(10_000)

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:")):
            self.foreign.append(url)

    def check(self) -> None:
        assert self.errors == [], "a page threw"
        assert self.dialogs == [], "a page opened a dialog"
        assert self.expected_violations or self.foreign == [], "a page asked another host"
        for page in self.pages:
            violations = page.evaluate("window.__violations ?? []")
            assert self.expected_violations or violations == [], "the page met its own policy"


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def open_page(browser: Browser, seen: Seen) -> Iterator[Callable[..., Page]]:
    """open_page(url, **context options): a page of a browser that remembers nothing."""
    contexts = []

    def begin(url: str, **more: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **more})
        contexts.append(context)
        page = context.new_page()
        seen.watch(page)
        page.goto(url)
        return page

    yield begin
    try:
        seen.check()
    finally:
        for context in contexts:
            context.close()


@pytest.fixture(scope="session")
def _rig(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rigs.Rig]:
    rig = rigs.start(tmp_path_factory.mktemp("dashboard"))
    yield rig
    rig.stop()


@pytest.fixture
def rig(_rig: rigs.Rig) -> Iterator[rigs.Rig]:
    """Four cards, three engines, as new."""
    yield _rig
    _rig.reset()


@pytest.fixture(scope="session")
def keyed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A gateway that asks for keys."""
    keyed = start_keyed(tmp_path_factory.mktemp("keyed"), status_needs_key=True)
    yield keyed
    keyed.stop()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the pages go: docs/ when RIGSERVE_WRITE_DOCS is set."""
    return Path(__file__).parents[2] / "docs" / "screenshots" if os.environ.get("RIGSERVE_WRITE_DOCS") else tmp_path_factory.mktemp("shots")
