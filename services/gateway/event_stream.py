"""Watches a stream of named events pass by: Anthropic's messages, OpenAI's responses. Pure, as stream.py.

They end with an event of their own (message_stop; response.completed or response.incomplete) and no [DONE].
"""

from __future__ import annotations

from services.gateway.stream import TextStream, engine_message, object_of
from services.wire.shapes import event_usage
from services.wire.sse import data_of

_ENDS = frozenset(("message_stop", "response.completed", "response.incomplete"))
_FAILS = frozenset(("error", "response.failed"))


class EventStream(TextStream):
    """`feed` passes whole events on as they came."""

    __slots__ = ()
    END = b""

    def _passes(self, block: bytes, now: float) -> bool:
        """Whether one event goes on.

        1. A comment goes on. A line that is no SSE field is broken. [DONE] is nobody's end here: left out.
        2. A payload that is not one JSON object is broken; a failure is the engine's own.
        3. More events than were to be had: broken.
        4. A usage is kept, a delta is timed, the last event ends the stream. Every event goes on.
        """
        payload = data_of(block)
        if payload is None:  # 1
            if not block.startswith((b":", b"event:", b"id:", b"retry:")):
                self.broken = "the engine sent something that is not a server-sent event"
            return self.broken is None
        if payload == b"[DONE]":
            return False
        event = object_of(payload)
        if event is None:  # 2
            self.broken = "the engine sent an event that is not JSON"
            return False
        kind = event.get("type")
        if kind in _FAILS or event.get("error") is not None:
            self.broken, self.told = engine_message(payload) or "the engine failed", True
            return False
        self.events += 1
        if self.events > self._most:  # 3
            self.broken = "the engine went on past the tokens that were asked for"
            return False
        self.usage = event_usage(event, self.usage)  # 4
        if isinstance(kind, str) and (kind == "content_block_delta" or (kind.startswith("response.") and kind.endswith(".delta"))):
            self.first_s = now if self.first_s is None else self.first_s
            self.last_s = now
        if kind in _ENDS:
            self.done = True
            self.first_s = now if self.first_s is None else self.first_s
        return True
