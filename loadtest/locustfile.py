"""Load on any OpenAI-compatible server: streamed chats with their time to first token, and images. HTTP only.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 4 -r 1 -t 60s --html report.html

Models are those that the server lists; LOAD_CHAT_MODEL and LOAD_IMAGE_MODEL name others, LOAD_API_KEY is sent where it is set.
Rows of the report: `chat` is a whole answer (its size is in tokens), `TTFT` the time until its first token, `ITL` the mean time between two
tokens after that, `image` one picture. A 429 is a failure of its own: the server said that it is full.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

from locust import HttpUser, between, events, task
from locust.exception import StopUser

MAX_TOKENS = int(os.environ.get("LOAD_MAX_TOKENS", "64"))
TIMEOUT_S = float(os.environ.get("LOAD_TIMEOUT_S", "300"))
PROMPTS = (
    "Name three uses for an old mining rig.",
    "Explain in two sentences why a graphics card is good at multiplying matrices.",
    "Write a short poem about a fan that never stops.",
    "What should one check before a server is switched off?",
)
PICTURES = ("a photo of the digit three", "a photo of the digit seven")


def chosen(models: list[dict[str, Any]], wish: str | None, image: bool) -> str | None:
    """The wished model, else the first listed one of that kind; a server that does not say kinds is taken as chat only."""
    if wish:
        return wish
    return next((model["id"] for model in models if (model.get("kind") == "image") is image), None)


def deltas(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream, until [DONE]. Raises ValueError for an error event."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        text = line[5:].strip()
        if text == b"[DONE]":
            return
        event = json.loads(text)
        if "error" in event:
            raise ValueError(event["error"].get("message", "error in the stream"))
        yield event


class ApiUser(HttpUser):
    """What both kinds of users share: the key, and what the server serves."""

    abstract = True
    wait_time = between(0.5, 2.0)
    is_image = False

    def on_start(self) -> None:
        if key := os.environ.get("LOAD_API_KEY"):
            self.client.headers["Authorization"] = f"Bearer {key}"
        with self.client.get("/v1/models", name="models", catch_response=True) as answer:
            models = answer.json()["data"] if answer.status_code == 200 else []
        wish = os.environ.get("LOAD_IMAGE_MODEL" if self.is_image else "LOAD_CHAT_MODEL")
        self.model = chosen(models, wish, self.is_image)
        if self.model is None:
            raise StopUser


class ChatUser(ApiUser):
    """Streams answers."""

    weight = 4

    @task
    def chat(self) -> None:
        body = {
            "model": self.model, "messages": [{"role": "user", "content": random.choice(PROMPTS)}], "max_tokens": MAX_TOKENS,  # noqa: S311
            "stream": True, "stream_options": {"include_usage": True},
        }
        started = time.perf_counter()
        with self.client.post(
            "/v1/chat/completions", json=body, stream=True, name="chat", catch_response=True, timeout=TIMEOUT_S
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            try:
                first_s, last_s, tokens = self._read(answer.iter_lines(), started)
            except (ValueError, OSError) as error:
                answer.failure(f"the stream broke: {error}")
                return
            if first_s is None or last_s is None:
                answer.failure("a stream without a token")
                return
            # Locust measured the time to the headers; the answer is over now.
            answer.request_meta["response_time"] = (last_s - started) * 1000
            answer.request_meta["response_length"] = tokens
        self._fire("TTFT", (first_s - started) * 1000, tokens)
        if tokens > 1:
            self._fire("ITL", (last_s - first_s) * 1000 / (tokens - 1), tokens)

    def _read(self, lines: Iterator[bytes], started: float) -> tuple[float | None, float | None, int]:
        """(time of the first token, of the last, tokens by the server's own count, else the events with text)."""
        first = last = None
        counted, usage = 0, None
        for event in deltas(lines):
            usage = (event.get("usage") or {}).get("completion_tokens", usage)
            choices = event.get("choices") or [{}]
            if (choices[0].get("delta") or {}).get("content"):
                last = time.perf_counter()
                first = first or last
                counted += 1
        return first, last, usage or counted

    def _fire(self, kind: str, milliseconds: float, tokens: int) -> None:
        events.request.fire(
            request_type=kind, name=str(self.model), response_time=milliseconds, response_length=tokens, exception=None, context={}
        )


class ImageUser(ApiUser):
    """Asks for pictures, one at a time. Where the server has no image model, it ends at once."""

    weight = 1
    is_image = True
    wait_time = between(1.0, 5.0)

    @task
    def image(self) -> None:
        body = {"model": self.model, "prompt": random.choice(PICTURES), "n": 1, "response_format": "b64_json"}  # noqa: S311
        with self.client.post("/v1/images/generations", json=body, name="image", catch_response=True, timeout=TIMEOUT_S) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif not answer.json().get("data"):
                answer.failure("no picture in the answer")
