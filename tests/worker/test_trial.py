"""What is measured after a load: the arithmetic, and what a failing request means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from services.sizing.types import Engine, ImageWorkload
from services.worker.engines.order import Order
from services.worker.probe import Answer, NoAnswer
from services.worker.trial import Trial, images_per_min, tokens_per_s, trial
from tests.worker.sample import CHAT, CPU, IMAGE, order, placement


class Port:
    """Stands for EngineHttp: answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers, self.asked = list(answers), []  # type: ignore[var-annotated]

    def ask(self, method: str, path: str, body: Any = None, *, timeout_s: float) -> Answer:
        self.asked.append(body)
        answer = self.answers.pop(0)
        if answer is None:
            raise NoAnswer("POST: timed out")
        return answer


def said(tokens: int) -> Answer:
    return Answer(200, json.dumps({"usage": {"completion_tokens": tokens}}).encode())


def image_order(batch: int = 2) -> Order:
    where = placement(CPU, Engine.DIFFUSERS, workload=ImageWorkload(768, 512, batch), model_id="sd", quant="fp16")
    return order(CPU, where, model=IMAGE)


def test_worked_numbers() -> None:
    assert tokens_per_s(1, 0.05, 33, 0.85) == 40.0
    assert images_per_min(2.0, 4.0, 3, 25, 1) == 2.31


@pytest.mark.parametrize(("short", "long", "long_s"), [(None, 33, 1.0), (1, None, 1.0), (1, 5, 1.0), (1, 33, 0.05)])
def test_no_speed_from_nothing(short: int | None, long: int | None, long_s: float) -> None:
    assert tokens_per_s(short, 0.05, long, long_s) is None
    assert images_per_min(2.0, 2.0, 3, 25, 1) is None
    assert images_per_min(2.0, 4.0, 3, None, 1) is None


def test_the_largest_picture_is_drawn() -> None:
    port = Port(Answer(200, b"{}"), Answer(200, b"{}"))
    assert trial(port, image_order()).problem is None  # type: ignore[arg-type]
    assert [(body["size"], body["n"], body["steps"]) for body in port.asked] == [("768x512", 2, 1), ("768x512", 2, 3)]


@pytest.mark.parametrize("which", ["text", "image"])
def test_out_of_memory_is_a_problem_and_other_failures_are_not(which: str) -> None:
    asked = order(CPU, placement(CPU)) if which == "text" else image_order()
    starved = Answer(500, b'{"error": {"message": "CUDA out of memory. Tried to allocate 1.2 GiB"}}')
    assert "out of memory at the largest request" in (trial(Port(starved), asked).problem or "")  # type: ignore[arg-type]
    assert trial(Port(Answer(500, b"template error")), asked) == Trial()  # type: ignore[arg-type]
    assert trial(Port(None), asked) == Trial()  # type: ignore[arg-type]


def test_what_is_measured_of_which_kind() -> None:
    port = Port(said(1), said(17))
    assert trial(port, order(CPU, placement(CPU))).problem is None  # type: ignore[arg-type]
    assert [body["max_tokens"] for body in port.asked] == [1, 17]
    assert trial(Port(), order(CPU, placement(CPU), model=replace(CHAT, kind="embedding"))) == Trial()  # type: ignore[arg-type]
