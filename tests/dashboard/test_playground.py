"""Chat and images as a person uses them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dashboard.pictures import take
from tests.dashboard.rig import CHAT, PAINTER, TOO_LARGE, Rig
from tests.gateway.rig import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
Open = Callable[..., "Page"]
ANSWER = ("A riser with one lane slows the loading of a model, not its answers: once the weights are on the card,\n"
          "only a few kilobytes pass for each token.")  # fmt: skip


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def assert_failed(said: str, code: str) -> None:
    """The gateway's error event, or, where Chromium forgot it as the connection was cut right behind it, that the answer is not whole."""
    assert code in said or "The answer broke off before it was whole." in said


def test_chat_streams_and_counts(rig: Rig, open_page: Open, screenshots: Path) -> None:
    rig.engines["chat"].set(said=ANSWER, itl_s=0.02, ttft_s=0.05)
    page = open_page(f"{rig.page}#/chat?model={CHAT}")
    ask(page, "Does it matter that my cards hang on x1 risers?")
    said = page.locator(".turn.assistant .said").first
    page.wait_for_function("() => document.querySelector('.turn.assistant .said')?.textContent.startsWith('A riser')")
    assert said.text_content() != ANSWER, "the beginning is shown before the end is there"
    page.get_by_text(re.compile(r"^\d+ tokens, ")).wait_for()
    assert said.text_content() == ANSWER
    meter = page.locator(".meter").inner_text()
    tokens, rate = (float(part) for part in re.findall(r"([\d.]+) tokens", meter.replace("/s", ""))[:2])
    assert tokens == len(ANSWER) // 5 + 1
    assert 25 < rate < 51, f"{meter}: one token each 20 ms and what sleeping costs"

    ask(page, "And for loading?")
    until(lambda: len(rig.engines["chat"].state()["seen"]) == 2, "the second question")
    roles = [message["role"] for message in rig.engines["chat"].state()["seen"][1]["body"]["messages"]]
    assert roles == ["user", "assistant", "user"], "the conversation goes on"
    page.locator(".meter").nth(1).get_by_text(re.compile(r"^\d+ tokens, ")).wait_for()
    take(page, screenshots / "chat.png")


def test_stop_ends_the_engines_work(rig: Rig, open_page: Open) -> None:
    engine = rig.engines["chat"]
    engine.set(itl_s=0.05)
    page = open_page(f"{rig.page}#/chat?model={CHAT}")
    page.get_by_label("At most").fill("1000")
    ask(page, "Count.")
    page.get_by_text(re.compile(r"^\d+ pieces so far")).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("; stopped").wait_for()
    page.get_by_role("button", name="Send").wait_for()
    until(lambda: engine.state()["aborted"] == 1 and engine.state()["running"] == 0, "the engine stops too")


def test_a_refusal_in_the_chat_shows_the_arithmetic(rig: Rig, open_page: Open) -> None:
    page = open_page(f"{rig.page}#/chat?model={TOO_LARGE}")
    ask(page, "hi")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "422 model_does_not_fit" in alert.inner_text()
    assert alert.get_by_role("img", name=re.compile("more than there is")).count() == 4


def test_a_stream_that_breaks_is_no_whole_answer(rig: Rig, open_page: Open) -> None:
    rig.engines["chat"].set(itl_s=0.1)
    rig.engines["chat"].fault("die_mid_stream", after_tokens=3)
    page = open_page(f"{rig.page}#/chat?model={CHAT}")
    ask(page, "hi")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert_failed(alert.inner_text(), "backend_failed")
    assert page.locator(".turn.assistant .said").text_content() == "w0 w1 w2"


def test_an_image_with_progress_is_kept_in_this_browser(rig: Rig, open_page: Open, screenshots: Path) -> None:
    rig.engines["painter"].set(step_s=0.05)
    page = open_page(f"{rig.page}#/images?model={PAINTER}")
    page.get_by_label("Prompt", exact=True).fill("an open-air mining rig, in the evening")
    page.get_by_label("Steps").fill("12")
    page.get_by_label("Seed").fill("40190")
    page.get_by_label("Size").fill("256x256")
    page.get_by_role("button", name="Paint").click()
    page.get_by_role("status").get_by_text(re.compile(r"step \d+ of 12, [\d.]+ steps/s")).wait_for()
    picture = page.get_by_role("img", name="an open-air mining rig, in the evening")
    picture.wait_for()
    page.wait_for_function("() => document.querySelector('.gallery img').naturalWidth === 256")
    body = rig.engines["painter"].state()["seen"][0]["body"]
    assert (body["seed"], body["steps"], body["size"], body["stream"]) == (40190, 12, "256x256", True)
    take(page, screenshots / "images.png")
    page.reload()
    picture.wait_for()
    page.wait_for_function("() => document.querySelector('.gallery img').naturalWidth === 256")
    page.get_by_role("button", name="Remove the picture").click()
    picture.wait_for(state="detached")
    page.reload()
    page.get_by_text("Nothing yet.").wait_for()


def test_an_image_that_is_too_large_is_refused_with_the_arithmetic(rig: Rig, open_page: Open) -> None:
    page = open_page(f"{rig.page}#/images?model={PAINTER}")
    page.get_by_label("Prompt", exact=True).fill("x")
    page.get_by_label("Size").fill("2048x2048")
    page.get_by_role("button", name="Paint").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "400 image_too_large" in alert.inner_text()
    assert alert.get_by_role("img").count() == 1


def test_a_job_that_fails_in_the_middle_says_so(rig: Rig, open_page: Open) -> None:
    rig.engines["painter"].fault("error_event", after_tokens=3)
    page = open_page(f"{rig.page}#/images?model={PAINTER}")
    page.get_by_label("Prompt", exact=True).fill("x")
    page.get_by_role("button", name="Paint").click()
    page.get_by_role("alert").wait_for()
    assert_failed(page.get_by_role("alert").inner_text(), "backend_out_of_memory")
    page.get_by_text("Nothing yet.").wait_for()
