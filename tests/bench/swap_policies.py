"""Who stays in memory: the gateway's own `residency.decide`, and the policies that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.residency import Demand, Load, Phase, Role, Uses, decide
from tests.bench.swap_rig import Place, Policy, Rig


@dataclass(slots=True)
class Ours:
    """The gateway's own decision, fed as the gateway feeds it: who waits, since when, and how often a model was asked for lately."""

    uses: dict[str, Uses] = field(default_factory=dict)
    seen: int = 0

    def __call__(self, rig: Rig) -> None:
        for request in rig.arrived[self.seen :]:
            self.uses.setdefault(request.model_id, Uses()).add(request.arrived_s)
        self.seen = len(rig.arrived)
        demand = {
            model_id: Demand(tuple(r.arrived_s for r in queue), self.uses[model_id].per_s(rig.now) if model_id in self.uses else 0.0)
            for model_id, queue in rig.waiting.items()
        }
        places = {place.id: place for place in rig.places}
        for act in decide(rig.room_bytes, [role_of(place) for place in rig.places], demand, rig.now):
            (rig.load if isinstance(act, Load) else rig.unload)(places[act.role_id])


def role_of(place: Place) -> Role:
    spec = place.spec
    of_model = (place.id, spec.model_id, spec.card_id, spec.need_bytes, spec.load_s)
    return Role(*of_model, place.phase, place.since_s, place.used_s, place.in_flight)


class Worth:
    """What a loaded model is worth keeping: the smallest leaves first."""

    def of(self, place: Place) -> float:
        raise NotImplementedError

    def gave_up(self, place: Place) -> None:
        """It leaves."""


class Recency(Worth):
    def of(self, place: Place) -> float:
        return place.used_s if place.used_s is not None else place.since_s


class Frequency(Worth):
    def of(self, place: Place) -> float:
        return float(place.uses)


class GreedyDual(Worth):
    """GreedyDual-Size-Frequency (Cherkasova 1998): at each use, worth = age + uses x seconds to load / GB; the age is the worth of what was
    given up last."""

    def __init__(self) -> None:
        self._age = 0.0
        self._worth: dict[str, tuple[int, float]] = {}

    def of(self, place: Place) -> float:
        uses, worth = self._worth.get(place.id, (-1, 0.0))
        if uses != place.uses:
            worth = self._age + place.uses * place.spec.load_s / (place.spec.need_bytes / 1e9)
            self._worth[place.id] = (place.uses, worth)
        return worth

    def gave_up(self, place: Place) -> None:
        self._age = max(self._age, self.of(place))


@dataclass(slots=True)
class FirstComeFirst:
    """How servers that swap on demand do it: the longest-waiting request's model is loaded next, and what is worth least leaves for it, as
    soon as it is idle (all that runs on it has ended). Requests for a model that is loading wait for that load.

    `most`: models at once on a card, whatever their size; None: as many as their bytes allow. Bytes are respected by all: a card that is
    overfilled would serve nothing.
    """

    worth: Worth
    most: int | None = None

    def __call__(self, rig: Rig) -> None:
        heads = sorted((queue[0].arrived_s, model_id) for model_id, queue in rig.waiting.items() if queue)
        for _, model_id in heads:
            if any(p.spec.model_id == model_id and p.phase in (Phase.LOADING, Phase.LOADED) for p in rig.places):
                continue
            if not self._bring(rig, model_id):
                return  # first come, first served: nobody overtakes

    def _bring(self, rig: Rig, model_id: str) -> bool:
        """True when its load has begun."""
        mine = [place for place in rig.places if place.spec.model_id == model_id]
        ways = []
        for place in mine:
            if any(p.spec.card_id == place.spec.card_id and p.phase in (Phase.LOADING, Phase.LEAVING) for p in rig.places):
                continue
            victims = self._victims(rig, place)
            ways.append((bool(victims), sum(self.worth.of(victim) for victim in victims), place.id, place, victims))
        if not ways:
            return False
        _, _, _, place, victims = min(ways, key=lambda way: way[:3])
        for victim in victims:
            self.worth.gave_up(victim)
            rig.unload(victim)
        if any(victim.phase is Phase.LEAVING for victim in victims):
            return False
        rig.load(place)
        return True

    def _victims(self, rig: Rig, place: Place) -> list[Place]:
        loaded = [p for p in rig.places if p.spec.card_id == place.spec.card_id and p.phase is Phase.LOADED]
        loaded.sort(key=lambda p: self.worth.of(p))
        room_bytes = rig.room_bytes[place.spec.card_id] - sum(p.spec.need_bytes for p in loaded)
        victims: list[Place] = []
        while room_bytes < place.spec.need_bytes or (self.most is not None and len(loaded) - len(victims) >= self.most):
            victims.append(loaded[len(victims)])
            room_bytes += victims[-1].spec.need_bytes
        return victims


POLICIES: dict[str, Callable[[], Policy]] = {
    "rigserve": Ours,
    "LRU by count, 1 per card": lambda: FirstComeFirst(Recency(), 1),
    "LRU by count, 2 per card": lambda: FirstComeFirst(Recency(), 2),
    "LRU by bytes": lambda: FirstComeFirst(Recency()),
    "LFU": lambda: FirstComeFirst(Frequency()),
    "GreedyDual-Size-Frequency": lambda: FirstComeFirst(GreedyDual()),
}
