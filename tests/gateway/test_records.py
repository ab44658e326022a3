"""What an ended request leaves behind: histograms as prometheus_client's own, request lines in batches that no crash takes along."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Theirs

from services.gateway.histogram import Histogram
from services.gateway.logs import FLUSH_S, MOST_LINES, LogHandler, RequestLog, log, log_event
from services.gateway.request_ids import RequestIds
from services.gateway.sweep import SWEEP_S, Sweep

BOUNDS = (0.01, 0.5, 1.0, 4.0, 4096.0, 67108864.0)


@given(st.lists(st.tuples(st.sampled_from(("a", 'b"\n')), st.one_of(st.sampled_from(BOUNDS), st.floats(0, 1e9))), max_size=20))
def test_the_text_is_prometheus_clients(values: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Histogram("x_seconds", "About it", ("one", "two"), BOUNDS, ours)
    other = Theirs("x_seconds", "About it", ("one", "two"), buckets=BOUNDS, registry=theirs)
    for label, value in values:
        mine.of(label, "z").observe(value)
        other.labels(label, "z").observe(value)
    assert [re.sub(rb"(_created\{.*\}) .*", rb"\1", generate_latest(r)) for r in (ours,)] == [
        re.sub(rb"(_created\{.*\}) .*", rb"\1", generate_latest(r)) for r in (theirs,)
    ]


async def test_request_lines_come_together_and_soon() -> None:
    written: list[str] = []
    requests = RequestLog(written.append)
    requests.add({"event": "request", "a": 1})
    requests.add({"event": "request", "a": 2})
    assert written == []
    await asyncio.sleep(FLUSH_S * 1.5)
    lines = [json.loads(line) for line in "".join(written).split("\n")]
    assert [line["a"] for line in lines] == [1, 2]
    assert {line["event"] for line in lines} == {"request"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])
    requests.add({"event": "request", "a": 3})
    await asyncio.sleep(FLUSH_S * 1.5)
    assert len(written) == 2
    for number in range(MOST_LINES + 1):
        requests.add({"event": "request", "a": number})
    assert len(written) == 3, "many lines do not wait"


def test_without_a_loop_nothing_is_kept_back() -> None:
    written: list[str] = []
    RequestLog(written.append).add({"a": 1})
    assert len(written) == 1


async def test_any_other_line_brings_the_request_lines_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    requests = RequestLog()
    monkeypatch.setattr(log, "handlers", [LogHandler(stream, requests)])
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "level", logging.INFO)
    log.manager._clear_cache()  # type: ignore[attr-defined]
    requests.add({"event": "request", "a": 1})
    log_event("unforeseen", {}, logging.ERROR)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["request", "unforeseen"]


async def test_a_closed_stderr_stops_nobody() -> None:
    stream = io.StringIO()
    requests = RequestLog()
    LogHandler(stream, requests)
    stream.close()
    requests.add({"event": "request", "a": 1})
    requests.flush()


def test_through_logging_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rigserve.gateway")
    RequestLog().add({"event": "request", "a": 1})
    assert json.loads(caplog.messages[0])["a"] == 1


def test_ids_differ_and_have_the_length_of_a_uuid() -> None:
    ids = [RequestIds() for _ in range(3)]
    made = [one.next() for one in ids for _ in range(1000)]
    assert len(set(made)) == 3000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


class Due:
    def __init__(self, due_s: float) -> None:
        self.due_s = due_s
        self.late = 0

    def too_late(self, now: float) -> None:
        self.late += 1
        self.due_s = float("inf")


async def test_the_sweep_finds_who_is_late_and_rests_when_nobody_is_watched() -> None:
    sweep, early, later = Sweep(), Due(0.0), Due(float("inf"))
    sweep.watch(early)
    sweep.watch(later)
    await asyncio.sleep(SWEEP_S * 1.5)
    assert (early.late, later.late) == (1, 0)
    later.due_s = 0.0
    await asyncio.sleep(SWEEP_S)
    assert (early.late, later.late) == (1, 1)
    sweep.forget(early)
    sweep.forget(later)
    await asyncio.sleep(SWEEP_S * 1.5)
    assert not sweep._armed
