"""A client that asks without a pause and writes down what it saw: what a user of the service sees while something breaks.

    python -m tests.compose.steady_client http://127.0.0.1:8000 MODEL SECONDS     (one JSON line an answer; where threads can't go)
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

PAUSE_S = 0.1
TIMEOUT_S = 60.0
REFUSED = 0  # in place of a status: no connection, or one that was cut


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. `began_s`, `ended_s`: seconds of the monotonic clock."""

    began_s: float
    ended_s: float
    status: int
    code: str | None
    backend: str | None

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


@dataclass(slots=True)
class SteadyClient:
    """`threads` of them at once, each with one short request after the other."""

    url: str
    model: str
    threads: int = 3
    max_tokens: int = 4
    seen: list[Seen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> Seen:
        body = {"model": self.model, "prompt": "Hello", "max_tokens": self.max_tokens, "temperature": 0}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                answer.read()
                return Seen(began, time.monotonic(), answer.status, None, answer.headers["x-rigserve-backend"])
        except urllib.error.HTTPError as error:
            code = json.loads(error.read())["error"]["code"]
            return Seen(began, time.monotonic(), error.code, code, error.headers["x-rigserve-backend"])
        except OSError as error:  # urllib's own errors are OSErrors too
            return Seen(began, time.monotonic(), REFUSED, type(getattr(error, "reason", error)).__name__, None)

    def go_on(self) -> None:
        while not self.over.is_set():
            self.seen.append(self.ask())
            self.over.wait(PAUSE_S)

    @contextmanager
    def asking(self) -> Iterator[SteadyClient]:
        """In the background; all requests have ended when the block is left."""
        running = [threading.Thread(target=self.go_on) for _ in range(self.threads)]
        for thread in running:
            thread.start()
        try:
            yield self
        finally:
            self.over.set()
            for thread in running:
                thread.join()

    @property
    def failed(self) -> list[Seen]:
        return [one for one in self.seen if one.status != 200]

    @property
    def longest_s(self) -> float:
        return max(one.took_s for one in self.seen)


@dataclass(slots=True)
class LongStream:
    """One streamed answer that takes long, read in the background: what it ended with, and when."""

    url: str
    model: str
    max_tokens: int = 250
    backend: str | None = None
    events: int = 0
    ending: str | None = None
    ended_s: float | None = None
    thread: threading.Thread | None = None
    left: threading.Event = field(default_factory=threading.Event)

    def start(self) -> LongStream:
        """Returns when its first token is there."""
        body = {"model": self.model, "messages": [{"role": "user", "content": "Tell me a long story."}], "stream": True,
                "max_tokens": self.max_tokens, "ignore_eos": True}  # fmt: skip
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        self.backend = answer.headers["x-rigserve-backend"]
        answer.readline()
        self.thread = threading.Thread(target=self._read, args=(answer,))
        self.thread.start()
        return self

    def _read(self, answer: object) -> None:
        """`done`: [DONE] came. `error CODE`: the error event that the API promises. `cut`: neither, the connection ended."""
        ending = "cut"
        try:
            for line in answer:  # type: ignore[attr-defined]
                if self.left.is_set():
                    break
                if line.startswith(b"data: [DONE]"):
                    ending = "done"
                elif line.startswith(b'data: {"error"'):
                    ending = f"error {json.loads(line[6:])['error']['code']}"
                elif line.startswith(b"data: "):
                    self.events += 1
        except OSError:
            ending = "cut"
        finally:
            answer.close()  # type: ignore[attr-defined]
        self.ending, self.ended_s = ending, time.monotonic()

    def wait(self, timeout_s: float) -> str:
        assert self.thread is not None
        self.thread.join(timeout_s)
        assert self.ending is not None, f"the stream of {self.backend} still runs after {timeout_s:.0f} s"
        return self.ending


def streams_on_each(url: str, model: str, placements: set[str], at_most: int = 16) -> dict[str, LongStream]:
    """One long stream on each of these placements; more are begun until each has one, and left again."""
    begun: list[LongStream] = []
    while not placements <= {stream.backend for stream in begun}:
        assert len(begun) < at_most, f"{at_most} streams ran on {[stream.backend for stream in begun]} alone"
        begun.append(LongStream(url, model).start())
    kept = {stream.backend or "": stream for stream in begun}
    for stream in begun:
        if stream is not kept[stream.backend or ""]:
            stream.left.set()
    return kept


def main() -> None:
    url, model, seconds = sys.argv[1:]
    client = SteadyClient(url, model)
    with client.asking():
        time.sleep(float(seconds))
    for one in sorted(client.seen, key=lambda one: one.began_s):
        print(json.dumps(asdict(one)))


if __name__ == "__main__":
    main()
