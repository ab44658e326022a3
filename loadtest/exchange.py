"""One request over locust's fast HTTP client, timed by its bytes. Runs under gevent, so a clock is read as soon as a line is there.

Locust's own figures are not used: its response time of a stream is that of the headers, and its iter_lines waits for 1,024 bytes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import gevent
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from locust.contrib.fasthttp import FastHttpSession

from loadtest.record import Record
from loadtest.stream import StreamReader, read_whole, settle_tokens
from loadtest.workload import Ask

BROKEN = (OSError, HTTPConnectionClosed, HTTPParseError, ValueError)
ANY_STATUS = frozenset(range(100, 600))


@dataclass(slots=True)
class Due:
    """When a request should have been sent, on both clocks: perf_counter for durations, Unix time to place it among other machines'."""

    perf_s: float
    unix_s: float


def due_now() -> Due:
    return Due(time.perf_counter(), time.time())


def prepare(session: FastHttpSession) -> None:
    """Every status is an answer to look at (the client drops the bodies of those it thinks bad), and a redirect is one too."""
    session.client.valid_response_codes = ANY_STATUS
    session.client.redirect_response_codes = frozenset()


def exchange(session: FastHttpSession, ask: Ask, headers: dict[str, str], due: Due, timeout_s: float, record: Record) -> Record:
    """Sends it and fills the record; always ends with an ending in it, also when the greenlet is killed."""
    record.streamed, record.wanted_tokens, record.size, record.steps = ask.streamed, ask.wanted_tokens, ask.size, ask.steps
    record.late_s = time.perf_counter() - due.perf_s
    sent = headers | {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    try:
        with (
            gevent.Timeout(timeout_s),
            session.request("POST", ask.path, name=ask.kind, data=ask.body, headers=sent, stream=True, catch_response=True) as answer,
        ):
            record.header_s = time.perf_counter() - due.perf_s
            _judge(answer, ask, due, record)
            _tell_locust(answer, record)
    except gevent.Timeout:
        record.ending, record.reason = "failed", f"no whole answer in {timeout_s:g} s"
    except gevent.GreenletExit:
        record.ending, record.reason = "unfinished", "still running when the run ended"
        record.end_s = time.perf_counter() - due.perf_s
        raise
    record.end_s = record.end_s or time.perf_counter() - due.perf_s
    return record


def _judge(answer: Any, ask: Ask, due: Due, record: Record) -> None:
    record.status = answer.status_code or None
    _read_headers(answer.headers, record)
    try:
        if record.status is None:
            record.reason = f"no connection: {type(answer.error).__name__}: {answer.error}"
        elif record.status != 200:
            _refusal(answer, ask, record)
        elif ask.expect == "refusal":
            record.reason = "accepted what should have been refused"
            answer._response.release()
        elif ask.streamed:
            _read_stream(answer._response, ask, due, record)
        else:
            _read_body(answer, record)
    except BROKEN as error:
        record.ending, record.reason = "failed", f"the connection broke: {type(error).__name__}: {error}"
    record.end_s = time.perf_counter() - due.perf_s
    settle_tokens(record)


def _read_stream(response: Any, ask: Ask, due: Due, record: Record) -> None:
    reader, more = StreamReader(record), True
    while more:
        line = response.readline(b"\n")
        at_s = time.perf_counter() - due.perf_s  # before anything is parsed
        if not line:
            break
        more = reader.line(line, at_s)
        if ask.leave_after_chunks is not None and record.chunks >= ask.leave_after_chunks:
            response.release()
            record.ending = "cancelled"
            return
        if ask.read_pause_s:
            gevent.sleep(ask.read_pause_s)
    if reader.done:
        response.read()  # the end of the chunked body, so that the connection can be used again
    record.reason = reader.verdict()
    record.ending = "failed" if record.reason else "ok"


def _read_body(answer: Any, record: Record) -> None:
    body = answer._response.read()
    record.reason = read_whole(record, json.loads(body))
    record.ending = "failed" if record.reason else "ok"


def _refusal(answer: Any, ask: Ask, record: Record) -> None:
    """A status that is no 200: what was wanted, a shed, or a failure."""
    body = answer._response.read()
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    error = error if isinstance(error, dict) else {}
    record.code = str(error["code"]) if error.get("code") is not None else None
    status = record.status or 0
    wait = answer.headers.get("retry-after") is not None
    if status == 429 or (status == 503 and wait):
        record.ending, record.reason = "shed", f"status {status} {record.code or ''}".strip()
    elif ask.expect != "answer" and 400 <= status < 500:
        record.ending = "refused"
        elsewhere = said.get("message") or said.get("detail") if isinstance(said, dict) else None
        if ask.kind == "wont_fit" and not (error.get("message") or elsewhere):
            record.ending, record.reason = "failed", f"status {status} without a reason"
    else:
        record.reason = f"status {status} {record.code or ''}".strip()


def _read_headers(headers: Any, record: Record) -> None:
    if headers is None:
        return
    record.card = headers.get("x-rigserve-card") or headers.get("x-card")
    record.backend = headers.get("x-rigserve-backend") or headers.get("x-worker")
    record.dropped = headers.get("x-rigserve-dropped-fields")
    queued = headers.get("x-rigserve-queue-ms") or headers.get("x-queue-ms")
    try:
        record.queue_s = float(queued) / 1000 if queued else None
    except ValueError:
        record.queue_s = None


def _tell_locust(answer: Any, record: Record) -> None:
    """Locust's own table shows whole answers (and tokens as their size), not headers."""
    answer.request_meta["response_time"] = record.end_s * 1000
    answer.request_meta["response_length"] = record.output_tokens or 0
    if record.ending in ("ok", "refused", "cancelled"):
        answer.success()
    else:
        answer.failure(record.reason or record.ending)
