"""One card that serves text and images at a time: who gives way to whom. Pure.

The rule: while an image runs on a card or waits for it, the card's text lanes offer half of their slots (at least one); an image starts
when no text lane has more than that in flight. So an image starts as soon as half the text has ended, and text never stops.
Worked number: 8 text slots, 8 in flight, an image comes: no new text until 4 are left, then the image starts beside 4; text goes on in 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.gateway.lane import Lane
from services.gateway.scheduler import ModelQueue


@dataclass(frozen=True, slots=True)
class CardShare:
    """`text` and `images`: the lanes on this card. `images_wait`: whether anyone waits for an image lane that is free
    but for this rule."""

    text: tuple[Lane, ...]
    images: tuple[Lane, ...]
    images_wait: Callable[[], bool]

    def __post_init__(self) -> None:
        for lane in (*self.text, *self.images):
            lane.share = self

    def lets(self, lane: Lane) -> bool:
        """Whether the card has room for one more on this lane, whose own slots are free."""
        if lane in self.images:
            return all(text.in_flight <= half(text) for text in self.text)
        busy = any(image.in_flight for image in self.images) or self.images_wait()
        return not busy or lane.in_flight < half(lane)


def half(lane: Lane) -> int:
    """Half of its slots, at least one."""
    return max(1, lane.slots // 2)


def share_cards(lanes: Iterable[tuple[str | None, str | None, Lane, ModelQueue]]) -> list[CardShare]:
    """A share for each card that has lanes of both kinds, from (card, "text" or "image", lane, its queue). Lanes of unknown card or kind
    share nothing."""
    by_card: dict[str, dict[str, list[tuple[Lane, ModelQueue]]]] = {}
    for card, kind, lane, queue in lanes:
        if card is not None and kind is not None:
            by_card.setdefault(card, {}).setdefault(kind, []).append((lane, queue))
    return [
        CardShare(tuple(lane for lane, _ in kinds["text"]), tuple(lane for lane, _ in kinds["image"]), _someone_waits(kinds["image"]))
        for kinds in by_card.values()
        if "text" in kinds and "image" in kinds
    ]


def _someone_waits(images: list[tuple[Lane, ModelQueue]]) -> Callable[[], bool]:
    return lambda: any(queue.waiting and lane.ready and lane.in_flight < lane.slots for lane, queue in images)
