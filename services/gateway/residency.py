"""Which models are in a card's memory: what to load, what to give up for it, what to leave alone. Pure: no clock, no task, no socket.

A *role* is one placement that may be loaded and unloaded: a model on a card, with the bytes of its bill and the seconds that loading it
takes over that card's bus. `decide` sees all roles and who waits, and says what to do now; whoever calls it does that, and asks again soon
and whenever something has changed. Requests are coalesced by what is asked: a model is wanted or not, however many wait for it.

Sources: a swap is bought when its price has been paid in waiting (the ski-rental rule: Karlin, Manasse, Rudolph, Sleator 1988; where
arrivals are steady it swaps as often as the economic order quantity of Harris 1913 says); what is kept is worth its use x the seconds to
bring it back / its bytes (GreedyDual-Size-Frequency: Cherkasova 1998).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp

UNKNOWN_LOAD_S = 30.0  # 6 GB over Gen1 x1 (services/sizing/speed_data.py); only until the first load is measured
LEAST_STAY_S = 5.0
STAY_PER_LOAD = 1.0
LONGEST_WAIT_LOADS = 4.0
LEAST_LONGEST_WAIT_S = 60.0
FORGET_S = 300.0  # how far back use is remembered: the weight of an arrival falls to 1/e


class Phase(StrEnum):
    """Where a role is. `leaving` still holds its bytes, and so does `silent`, as far as anybody knows: its worker does not answer. `failed`
    holds nothing, and is not to be loaded now."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    LEAVING = "leaving"
    SILENT = "silent"
    FAILED = "failed"


HOLDS_BYTES = (Phase.LOADING, Phase.LOADED, Phase.LEAVING, Phase.SILENT)


@dataclass(frozen=True, slots=True)
class Role:
    """One placement as it is now. `load_s`: measured at the last load, else predicted; None: not known. `since_s`: in this phase since.
    `used_s`: when it last had a request; None: not since it was loaded. `in_flight`: requests on it now. `pinned`: never given up.
    `keep_alive_s`: unloaded after so long without a request; None: it stays until its room is needed."""

    id: str
    model_id: str
    card_id: str
    need_bytes: int
    load_s: float | None
    phase: Phase = Phase.UNLOADED
    since_s: float = 0.0
    used_s: float | None = None
    in_flight: int = 0
    pinned: bool = False
    keep_alive_s: float | None = None

    @property
    def bus_s(self) -> float:
        """Seconds of its card's bus that loading it takes."""
        return self.load_s if self.load_s is not None else UNKNOWN_LOAD_S


@dataclass(frozen=True, slots=True)
class Demand:
    """What is wanted of one model. `waiting_since_s`: since when each waits for it. `per_s`: requests a second, lately. `ordered`: somebody
    said load it."""

    waiting_since_s: tuple[float, ...] = ()
    per_s: float = 0.0
    ordered: bool = False

    @property
    def wanted(self) -> bool:
        return self.ordered or bool(self.waiting_since_s)


NOTHING = Demand()


@dataclass(frozen=True, slots=True)
class Load:
    role_id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """`why` is a part of a sentence for people."""

    role_id: str
    why: str


class Uses:
    """How often something is used lately: a count in which each use weighs 1/e after FORGET_S.

    Worked number: 30 uses, 10 s apart, the last one now: 19.3 by weight, so 19.3 / 300 s = 0.064 a second; it comes near 0.1 with time.
    """

    __slots__ = ("_at_s", "_weight")

    def __init__(self) -> None:
        self._weight, self._at_s = 0.0, 0.0

    def add(self, now: float, count: int = 1) -> None:
        self._weight = self._weight * exp((self._at_s - now) / FORGET_S) + count
        self._at_s = now

    def per_s(self, now: float) -> float:
        return self._weight * exp((self._at_s - now) / FORGET_S) / FORGET_S


def decide(room_bytes: Mapping[str, int], roles: Sequence[Role], demand: Mapping[str, Demand], now: float) -> list[Load | Unload]:
    """What to do now. `room_bytes`: by card, what these roles may hold together; `demand`: by model.

    1. A role that nobody waits for, is not pinned and has had no request for its `keep_alive_s`: unload it.
    2. Of the models that are wanted, or pinned, and neither loaded nor loading anywhere, the most impatient first (request seconds waited
       per second of load; an order before all): its cards are looked at, the cheapest way first (`_ways`).
       2a. Its card is loading something: it waits for that where it has room there, else the next card. Two loads share one bus and both
           come later.
       2b. There is room: load it.
       2c. Room is coming, since something is leaving: it waits, and the room is kept for it.
       2d. The price of the swap is paid (`_is_paid`): unload what it costs least to give up, each of which has had its least stay.
       2e. Else it waits; others that need no swap may go on.
    3. Nothing else: what nobody asked for is not loaded, and what might be asked for again stays where it is.
    """
    table = _Table(room_bytes, roles)
    acts: list[Load | Unload] = []
    for role in roles:  # 1
        if _is_idle(role, demand.get(role.model_id, NOTHING), now):
            table.leave(role)
            acts.append(Unload(role.id, f"no request for {role.keep_alive_s:g} s"))
    for model_id in _most_impatient_first(table, demand, now):  # 2
        acts += _bring(table, model_id, demand, now)
    return acts


def _is_idle(role: Role, wish: Demand, now: float) -> bool:
    """Whether its keep-alive is over."""
    if role.phase is not Phase.LOADED or role.keep_alive_s is None or role.pinned or role.in_flight or wish.wanted:
        return False
    return now - max(role.since_s, role.used_s or role.since_s) >= role.keep_alive_s


class _Table:
    """The cards while a decision is made: who is where, and how much room is left."""

    def __init__(self, room_bytes: Mapping[str, int], roles: Sequence[Role]) -> None:
        self.phases = {role.id: role.phase for role in roles}
        self.roles = roles
        self.room_bytes = dict(room_bytes)
        self.coming_bytes = dict.fromkeys(room_bytes, 0)
        for role in roles:
            if role.phase in HOLDS_BYTES:
                self.room_bytes[role.card_id] -= role.need_bytes
            if role.phase is Phase.LEAVING:
                self.coming_bytes[role.card_id] += role.need_bytes

    def of(self, model_id: str, *phases: Phase) -> list[Role]:
        return [role for role in self.roles if role.model_id == model_id and self.phases[role.id] in phases]

    def on(self, card_id: str, phase: Phase) -> list[Role]:
        return [role for role in self.roles if role.card_id == card_id and self.phases[role.id] is phase]

    def leave(self, role: Role) -> None:
        self.phases[role.id] = Phase.LEAVING
        self.coming_bytes[role.card_id] += role.need_bytes

    def load(self, role: Role) -> None:
        self.phases[role.id] = Phase.LOADING
        self.room_bytes[role.card_id] -= role.need_bytes

    def keep_for(self, role: Role) -> None:
        """Of the room that there is and that is coming, its part is spoken for."""
        self.coming_bytes[role.card_id] -= role.need_bytes


def _most_impatient_first(table: _Table, demand: Mapping[str, Demand], now: float) -> list[str]:
    found: list[tuple[bool, float, str]] = []
    for model_id in dict.fromkeys(role.model_id for role in table.roles):
        wish = demand.get(model_id, NOTHING)
        unloaded = table.of(model_id, Phase.UNLOADED)
        pinned = any(role.pinned for role in unloaded)
        if (wish.wanted or pinned) and unloaded and not table.of(model_id, Phase.LOADED, Phase.LOADING):
            found.append((wish.ordered or pinned, paid_s(wish, now) / min(role.bus_s for role in unloaded), model_id))
    return [model_id for *_, model_id in sorted(found, key=lambda one: (not one[0], -one[1]))]


def paid_s(wish: Demand, now: float) -> float:
    """What those who wait have paid by now, in request seconds.

    Worked number: two who wait for 10 s and 4 s have paid 14.
    """
    return sum(now - since_s for since_s in wish.waiting_since_s)


def _bring(table: _Table, model_id: str, demand: Mapping[str, Demand], now: float) -> list[Load | Unload]:
    """2a to 2e of `decide` for one model."""
    wish = demand.get(model_id, NOTHING)
    ways = sorted(_ways(table, model_id, demand, now), key=lambda way: (way.price_s + way.role.bus_s, way.role.id))
    for way in ways:
        role = way.role
        if table.on(role.card_id, Phase.LOADING):  # 2a
            if way.victims:
                continue
            table.keep_for(role)
            return []
        if role.need_bytes <= table.room_bytes[role.card_id] and role.need_bytes <= _free(table, role.card_id):  # 2b
            table.load(role)
            return [Load(role.id)]
        if not way.victims:  # 2c
            table.keep_for(role)
            return []
        if _is_paid(way, wish, demand, now):  # 2d
            for victim in way.victims:
                table.leave(victim)
            table.keep_for(role)
            return [Unload(victim.id, f"its room is needed for {model_id}") for victim in way.victims]
    return []  # 2e


def _free(table: _Table, card_id: str) -> int:
    """Room on a card, now and coming, that is not spoken for."""
    return table.room_bytes[card_id] + table.coming_bytes[card_id]


@dataclass(frozen=True, slots=True)
class _Way:
    """One card for a model, what would have to go, and what that costs others, in request seconds."""

    role: Role
    victims: tuple[Role, ...]
    price_s: float


def _ways(table: _Table, model_id: str, demand: Mapping[str, Demand], now: float) -> Iterable[_Way]:
    """Each card that could have it. What has to go is chosen the least valuable byte first, and what then is not needed stays after all."""
    for role in table.of(model_id, Phase.UNLOADED):
        short_bytes = role.need_bytes - _free(table, role.card_id)
        loaded = [one for one in table.on(role.card_id, Phase.LOADED) if _may_go(one, demand.get(one.model_id, NOTHING), now)]
        worth = {one.id: price_of(one, role, demand.get(one.model_id, NOTHING)) for one in loaded}
        victims: list[Role] = []
        for one in sorted(loaded, key=lambda one: (worth[one.id] / max(1, one.need_bytes), one.used_s or one.since_s)):
            if sum(victim.need_bytes for victim in victims) >= short_bytes:
                break
            victims.append(one)
        if sum(victim.need_bytes for victim in victims) < short_bytes:
            continue
        for one in sorted(victims, key=lambda one: -worth[one.id]):
            if sum(victim.need_bytes for victim in victims) - one.need_bytes >= short_bytes:
                victims.remove(one)
        yield _Way(role, tuple(victims), sum(worth[victim.id] for victim in victims))


def _may_go(role: Role, wish: Demand, now: float) -> bool:
    """Whether it may be given up at all: it is not pinned, not ordered, and has had its least stay."""
    return not role.pinned and not wish.ordered and now - role.since_s >= least_stay_s(role)


def least_stay_s(role: Role) -> float:
    """How long a model stays once it is loaded, whoever waits for others: as long as its load took, so that a card never spends more than
    half of its time loading.

    Worked number: 40 s to load, 40 s at least to serve.
    """
    return max(LEAST_STAY_S, STAY_PER_LOAD * role.bus_s)


def price_of(role: Role, instead: Role, wish: Demand) -> float:
    """What giving up `role` for `instead` costs those who use it, in request seconds: each request that comes or waits for it meanwhile
    waits for both loads.

    Worked number: 0.05 requests a second, 20 s to load each, one that waits: (1 + 0.05 x 40) x 40 s = 120 s.
    """
    both_s = role.bus_s + instead.bus_s
    return (len(wish.waiting_since_s) + wish.per_s * both_s) * both_s


def _is_paid(way: _Way, wish: Demand, demand: Mapping[str, Demand], now: float) -> bool:
    """1. It was ordered: yes. 2. Somebody waits much longer than anyone who waits for what would have to go: yes. 3. What was waited since
    that was loaded is worth the price."""
    if wish.ordered or way.role.pinned:  # 1
        return True
    oldest_s = min(wish.waiting_since_s, default=now)
    their_oldest_s = min((since_s for v in way.victims for since_s in demand.get(v.model_id, NOTHING).waiting_since_s), default=now)
    if their_oldest_s - oldest_s >= max(LEAST_LONGEST_WAIT_S, LONGEST_WAIT_LOADS * way.role.bus_s):  # 2
        return True
    begun_s = max(victim.since_s for victim in way.victims)
    return sum(now - max(since_s, begun_s) for since_s in wish.waiting_since_s) >= way.price_s  # 3
