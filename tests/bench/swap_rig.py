"""Two simulated cards that hold models by their bytes, load them over their bus, and serve requests; nothing here decides."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.residency import Phase


@dataclass(frozen=True, slots=True)
class Spec:
    """One model on one card. `slots`: requests at once. `work_s`: seconds per unit of a request's work when it has its slot."""

    model_id: str
    card_id: str
    need_bytes: int
    load_s: float
    slots: int
    work_s: float


@dataclass(slots=True, eq=False)
class Request:
    model_id: str
    arrived_s: float
    work: float
    done_s: float | None = None
    started_s: float | None = None


@dataclass(slots=True, eq=False)
class Place:
    """A model on a card while the run goes on."""

    spec: Spec
    phase: Phase = Phase.UNLOADED
    since_s: float = 0.0
    used_s: float | None = None
    in_flight: int = 0
    uses: int = 0

    @property
    def id(self) -> str:
        return f"{self.spec.model_id}@{self.spec.card_id}"


Policy = Callable[["Rig"], None]
LOOK_S = 0.5


@dataclass(slots=True, eq=False)
class Rig:
    """A run: the policy is called at every event and every LOOK_S while somebody waits, and calls `load` and `unload`.

    Raises AssertionError where a policy overfills a card, unloads what is not loaded or loads what is not unloaded: no policy may cheat.
    """

    room_bytes: dict[str, int]
    places: list[Place]
    policy: Policy
    now: float = 0.0
    loads: int = 0
    evictions: int = 0
    bus_s: float = 0.0
    waiting: dict[str, deque[Request]] = field(default_factory=dict)
    arrived: list[Request] = field(default_factory=list)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: itertools.count[int] = field(default_factory=itertools.count)
    _looking: bool = False

    def run(self, trace: list[Request]) -> None:
        """Until the last request is done."""
        for place in self.places:
            self.waiting.setdefault(place.spec.model_id, deque())
        for request in trace:
            self._at(request.arrived_s, lambda r=request: self._arrive(r))  # type: ignore[misc]
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            self._serve()
            self.policy(self)
            self._serve()
            if any(self.waiting.values()) and not self._looking:
                self._looking = True
                self._at(self.now + LOOK_S, self._look)
        assert all(request.done_s is not None for request in trace), "somebody was never served"

    def load(self, place: Place) -> None:
        held = sum(p.spec.need_bytes for p in self.places if p.spec.card_id == place.spec.card_id and p.phase is not Phase.UNLOADED)
        assert place.phase is Phase.UNLOADED
        assert held + place.spec.need_bytes <= self.room_bytes[place.spec.card_id], "the card is overfull"
        self._turn(place, Phase.LOADING)
        self.loads += 1
        others = [p for p in self.places if p.spec.card_id == place.spec.card_id and p.phase is Phase.LOADING and p is not place]
        assert not others, "one load at a time on a card's bus"
        self.bus_s += place.spec.load_s
        self._at(self.now + place.spec.load_s, lambda: self._turn(place, Phase.LOADED))

    def unload(self, place: Place) -> None:
        """What runs on it may end first."""
        assert place.phase is Phase.LOADED
        self.evictions += 1
        self._turn(place, Phase.LEAVING)
        if not place.in_flight:
            self._turn(place, Phase.UNLOADED)

    def _turn(self, place: Place, phase: Phase) -> None:
        place.phase, place.since_s = phase, self.now
        if phase is Phase.LOADED:
            place.used_s = None

    def _at(self, time_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._number), happen))

    def _look(self) -> None:
        self._looking = False

    def _arrive(self, request: Request) -> None:
        self.waiting[request.model_id].append(request)
        self.arrived.append(request)

    def _serve(self) -> None:
        for place in self.places:
            queue = self.waiting[place.spec.model_id]
            while place.phase is Phase.LOADED and queue and place.in_flight < place.spec.slots:
                request = queue.popleft()
                request.started_s, place.used_s = self.now, self.now
                place.in_flight += 1
                place.uses += 1
                self._at(self.now + request.work * place.spec.work_s, lambda p=place, r=request: self._end(p, r))  # type: ignore[misc]

    def _end(self, place: Place, request: Request) -> None:
        request.done_s = place.used_s = self.now
        place.in_flight -= 1
        if place.phase is Phase.LEAVING and not place.in_flight:
            self._turn(place, Phase.UNLOADED)
