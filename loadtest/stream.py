"""Reads a server's events line by line. Pure: the caller says when a line came, and stamps it before anything is parsed."""

from __future__ import annotations

import json
from typing import Any

from loadtest.record import Record


class StreamReader:
    """Fills a record from the lines of a chat or completion stream."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.error: str | None = None
        self.done = False

    def line(self, line: bytes, at_s: float) -> bool:
        """One line that came `at_s` after the request was due. True while more is expected."""
        if not line.startswith(b"data:"):
            return True
        text = line[5:].strip()
        if text == b"[DONE]":
            self.done = True
            return False
        try:
            event = json.loads(text)
        except ValueError:
            self.error = "an event that is not JSON"
            return False
        if not isinstance(event, dict):
            self.error = "an event that is not an object"
            return False
        if event.get("error"):
            said = event["error"]
            self.record.code = said.get("code") if isinstance(said, dict) else None
            self.error = f"error event: {said.get('message') if isinstance(said, dict) else said}"
            return False
        self._event(event, at_s)
        return True

    def _event(self, event: dict[str, Any], at_s: float) -> None:
        record = self.record
        read_usage(record, event.get("usage"))
        for choice in event.get("choices") or ():
            if has_content(choice):
                if record.first_s is None:
                    record.first_s = at_s
                elif record.last_s is not None:
                    record.gaps_s.append(at_s - record.last_s)
                record.last_s = at_s
                record.chunks += 1
            record.finish = choice.get("finish_reason") or record.finish

    def verdict(self) -> str | None:
        """Why this is no whole answer, None where it is one."""
        if self.error:
            return self.error
        if self.record.first_s is None:
            return "a stream without a token"
        if self.record.finish is None:
            return "a stream without finish_reason"
        return None if self.done else "a stream that ended before [DONE]"


def has_content(choice: dict[str, Any]) -> bool:
    """Whether a streamed choice brings a token: text, reasoning or a piece of a tool call. An opening event with only a role does not."""
    delta = choice.get("delta") or {}
    return bool(
        delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or delta.get("tool_calls") or choice.get("text")
    )


def read_usage(record: Record, usage: Any) -> None:
    """The server's own counts."""
    if not isinstance(usage, dict):
        return
    if isinstance(usage.get("completion_tokens"), int):
        record.output_tokens, record.tokens_source = usage["completion_tokens"], "usage"
    if isinstance(usage.get("prompt_tokens"), int):
        record.prompt_tokens = usage["prompt_tokens"]
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
        record.cached_tokens = details["cached_tokens"]


def read_whole(record: Record, answer: Any) -> str | None:
    """An answer that came in one piece; why it is none, None where it is one."""
    if not isinstance(answer, dict):
        return "an answer that is not a JSON object"
    read_usage(record, answer.get("usage"))
    if answer.get("error"):
        return "200 with an error inside"
    if isinstance(answer.get("data"), list):
        if record.kind == "image":
            record.images = sum(1 for one in answer["data"] if one.get("b64_json") or one.get("url"))
            record.steps = (answer.get("usage") or {}).get("steps", record.steps)
            return None if record.images else "no picture in the answer"
        return None if answer["data"] and answer["data"][0].get("embedding") else "no embedding in the answer"
    choices = answer.get("choices") or [{}]
    record.finish = choices[0].get("finish_reason")
    return None if record.finish else "an answer without finish_reason"


def settle_tokens(record: Record) -> None:
    """Where the server gave no usage, content events stand for tokens, and are labelled so."""
    if record.tokens_source is None and record.streamed and record.chunks:
        record.output_tokens, record.tokens_source = record.chunks, "chunks"
