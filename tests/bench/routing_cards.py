"""Mock cards and their clients as events of a simulated clock: no network, no sleeping. Every card here is simulated.

A card runs as many requests at a time as it has slots, each at its own token time; the rest wait inside it, first come, first served.
A prompt token costs 0.02 token times, a tenth of that when the card lately saw the same first kilobyte.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

PROMPT_UNITS = 0.02
CACHED = 0.1
CACHED_PREFIXES = 32
GIVE_UP_S = 20.0


@dataclass(slots=True, eq=False)
class Request:
    """One client's request and what became of it; times are seconds of the simulation, None where that never happened."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    prefix: int
    key: str = "someone"
    sent_s: float | None = None
    first_s: float | None = None
    done_s: float | None = None
    refused_s: float | None = None
    card: int | None = None

    def good(self, ttft_s: float = 2.0, total_s: float = 10.0) -> bool:
        return (
            self.first_s is not None and self.done_s is not None
            and self.first_s - self.arrived_s <= ttft_s and self.done_s - self.arrived_s <= total_s
        )  # fmt: skip


class Clock:
    """The events that are due, in their order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def at(self, when_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when_s, next(self._number), do))

    def run(self) -> None:
        while self._due:
            self.now, _, do = heapq.heappop(self._due)
            do()


@dataclass(slots=True)
class Running:
    """One request on a card: how many token times are left to its end and to its first token, as of `as_of_s`."""

    left_units: float
    first_units: float
    as_of_s: float
    version: int = 0


@dataclass(slots=True)
class Card:
    """`token_s` may change on the way (`turn`). `ended` is told of each request that has ended on it."""

    index: int
    token_s: float
    slots: int
    clock: Clock
    ended: Callable[[Request], None]
    running: dict[Request, Running] = field(default_factory=dict)
    queue: deque[Request] = field(default_factory=deque)
    prefixes: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def in_flight(self) -> int:
        return len(self.running) + len(self.queue)

    def take(self, request: Request) -> None:
        request.card, request.sent_s = self.index, self.clock.now
        self.queue.append(request)
        self._start()

    def drop(self, request: Request) -> None:
        """Its client has left."""
        if request in self.running:
            del self.running[request]
            self._start()
        elif request in self.queue:
            self.queue.remove(request)

    def turn(self, token_s: float) -> None:
        """From now on a token takes `token_s`, also of the requests that run."""
        for request, state in self.running.items():
            passed = (self.clock.now - state.as_of_s) / self.token_s
            state.left_units -= passed
            state.first_units -= passed
            state.as_of_s = self.clock.now
            self._schedule(request, state, token_s)
        self.token_s = token_s

    def _start(self) -> None:
        while self.queue and len(self.running) < self.slots:
            request = self.queue.popleft()
            prompt = request.prompt_tokens * PROMPT_UNITS * (CACHED if request.prefix in self.prefixes else 1.0)
            self.prefixes[request.prefix] = None
            self.prefixes.move_to_end(request.prefix)
            if len(self.prefixes) > CACHED_PREFIXES:
                self.prefixes.popitem(last=False)
            state = Running(prompt + request.output_tokens, prompt + 1, self.clock.now)
            self.running[request] = state
            self._schedule(request, state, self.token_s)

    def _schedule(self, request: Request, state: Running, token_s: float) -> None:
        state.version += 1
        version = state.version
        if state.first_units > 0:
            request.first_s = self.clock.now + state.first_units * token_s
        self.clock.at(self.clock.now + state.left_units * token_s, lambda: self._done(request, version))

    def _done(self, request: Request, version: int) -> None:
        state = self.running.get(request)
        if state is None or state.version != version:
            return
        del self.running[request]
        request.done_s = self.clock.now
        self._start()
        self.ended(request)
