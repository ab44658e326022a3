"""One backend as the scheduler sees it: what it holds, how fast it is, how many of its slots are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.gateway.lane_slots import Measured, SlotLearner, waited_inside
from services.gateway.lane_speed import LaneSpeed
from services.gateway.tickets import Need

if TYPE_CHECKING:
    from services.gateway.card_share import CardShare

PREFIXES = 256


class Lane:
    """`unit_s`: seconds per token (text) or per image, learned from finished work, at first the plan's prediction.

    None as `context_tokens`, `width_px`, `height_px`: not known, so it holds everything. None as `slots`: not known, so they are learned.
    `share`: the card, when lanes of other models are on it too.
    """

    __slots__ = (
        "_learner", "_prefixes", "coming", "context_tokens", "height_px", "hot_slots", "id", "in_flight", "ready", "share", "slots",
        "speed", "taken", "width_px",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        slots: int | None,
        unit_s: float | None = None,
        context_tokens: int | None = None,
        width_px: int | None = None,
        height_px: int | None = None,
        ready: bool = False,
        in_flight: int = 0,
        taken: int = 0,
    ) -> None:
        self.id = id
        self._learner = SlotLearner() if slots is None else None
        self.slots = self._learner.slots if self._learner is not None else slots or 0
        self.speed = LaneSpeed(unit_s)
        self.context_tokens = context_tokens
        self.width_px = width_px
        self.height_px = height_px
        self.ready = ready
        self.coming = False  # it is not loaded, and will be when somebody waits for it (roles.py)
        self.in_flight = in_flight
        self.taken = taken
        self.hot_slots: int | None = None  # so few while its card is hot (heat.py)
        self.share: CardShare | None = None
        self._prefixes: dict[int, None] = {}

    @property
    def unit_s(self) -> float | None:
        return self.speed.unit_s

    @property
    def slots_are_learned(self) -> bool:
        return self._learner is not None

    @property
    def full(self) -> bool:
        """Whether all slots that it may use now are taken."""
        return self.in_flight >= (self.slots if self.hot_slots is None else self.hot_slots)

    @property
    def open(self) -> bool:
        """Whether one more may start on it now."""
        return self.ready and not self.full and (self.share is None or self.share.lets(self))

    def holds(self, need: Need) -> bool:
        return (
            (self.context_tokens is None or need.tokens <= self.context_tokens)
            and (self.width_px is None or need.width_px <= self.width_px)
            and (self.height_px is None or need.height_px <= self.height_px)
        )

    def holds_as(self, other: Lane) -> bool:
        """Whether the other one offers the same."""
        size = (self.context_tokens, self.width_px, self.height_px) == (other.context_tokens, other.width_px, other.height_px)
        return size and self.slots_are_learned == other.slots_are_learned and (self.slots_are_learned or self.slots == other.slots)

    def learn(self, unit_s: float) -> None:
        """One more measurement of `unit_s`."""
        self.speed.learn(unit_s)

    def measured(self, measured: Measured) -> bool:
        """One more finished request with all that is known of it: the speed, and the slots when they are learned. Whether there are more of
        them now."""
        self.speed.learn(measured.unit_s)
        waited = waited_inside(measured, self.speed.prompt_s)
        if measured.first_s is not None and not waited:
            self.speed.learn_prompt(measured.first_s, measured.prompt_tokens, measured.unit_s)
        if self._learner is None:
            return False
        before = self.slots
        self._learner.learn(measured, waited)
        self.slots = self._learner.slots
        return self.slots > before

    def remember(self, prefix: int) -> None:
        """It has seen this beginning of a prompt; the last PREFIXES are kept."""
        self._prefixes.pop(prefix, None)
        self._prefixes[prefix] = None
        if len(self._prefixes) > PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]

    def knows(self, prefix: int) -> bool:
        return prefix in self._prefixes
