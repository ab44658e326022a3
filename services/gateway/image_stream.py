"""Watches the events of an image job pass by: what goes on to the client, what the engine counted, how it ended. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from services.wire.sse import DONE, EventSplitter, EventTooLarge, data_of


class ImageStream:
    """`feed` reads; then `done`, or `error` (the engine's own, as JSON), or `broken` with the reason."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self.pictures = 0
        self.usage: Any = None
        self.done = False
        self.error: bytes | None = None
        self.broken: str | None = None

    def feed(self, data: bytes) -> bytes:
        """What of `data` goes to the client: whole events only. Nothing more comes once it has ended, one way or another."""
        try:
            blocks = self._splitter.feed(data)
        except EventTooLarge as error:
            self.broken = str(error)
            return b""
        out = []
        for block in blocks:
            if self._passes(block):
                out.append(block + b"\n\n")
            if self.done or self.error is not None or self.broken is not None:
                break
        return b"".join(out) + (DONE if self.done else b"")

    def end(self) -> bytes:
        """The engine's answer has ended: without [DONE] that is a failure, however clean."""
        if not self.done:
            self.broken = "the engine ended its answer before it was whole"
        return b""

    def _passes(self, block: bytes) -> bool:
        """1. A heartbeat goes on; what is no event is broken. 2. [DONE] after at least one picture is the end. 3. What is no JSON object
        is broken. 4. An error is the engine's own failure. 5. A finished picture is counted. 6. Everything else goes on."""
        payload = data_of(block)
        if payload is None:  # 1
            if not block.startswith((b":", b"event:")):
                self.broken = "the engine sent something that is not a server-sent event"
            return block.startswith(b":")
        if payload == b"[DONE]":  # 2
            self.done = self.pictures > 0
            self.broken = None if self.done else "the engine ended its answer without a picture"
            return False
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):  # 3
            self.broken = "the engine sent an event that is not JSON"
            return False
        if "error" in event:  # 4
            self.error = payload
            return False
        if str(event.get("type")).endswith(".completed"):  # 5
            self.pictures += 1
            self.usage = event.get("usage") or self.usage
        return True  # 6
