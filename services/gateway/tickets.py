"""What asks for a seat: a ticket. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

INTERACTIVE, BATCH = 0, 1


class QueueIsFull(Exception):
    """No slot is free, and it may not wait: the queue is at its limit, or the wait would be longer than the ticket allows (`too_late`).

    `wait_s`: how long until a seat, from measured service times; None if unmeasured.
    """

    def __init__(self, waiting: int, wait_s: float | None, too_late: bool = False) -> None:
        super().__init__(f"{waiting} requests are already waiting")
        self.waiting = waiting
        self.wait_s = wait_s
        self.too_late = too_late


class NobodyServes(Exception):
    """No lane that is ready could ever take it, so there is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks of a lane: tokens of context, or pixels."""

    tokens: int = 0
    width_px: int = 0
    height_px: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One request that wants a seat. A request that is tried again gets a fresh one (`dataclasses.replace`): to the queue, two tickets are
    the same only when they are the same object.

    `avoid`: lanes that have already failed it. `prefix`: a hash of how its prompt begins; a lane that has lately seen the same has it
    cached. `priority`: 0 is interactive, each step up lets others go first. `key`: whose request it is, for fairness; None: nobody's in
    particular. `cost`: its share of a turn among keys. `queue_s`: how long it may wait for a seat; None: as long as the caller waits.
    """

    need: Need
    avoid: frozenset[str] = frozenset()
    prefix: int | None = None
    priority: int = INTERACTIVE
    key: str | None = None
    cost: float = 1.0
    queue_s: float | None = None


def queue_limit_s(ttft_goal_s: float, prefill_s: float | None) -> float:
    """How long a request may wait for a seat when its first token is wanted within `ttft_goal_s` and its prompt will take `prefill_s`
    (None: not known, so nothing is set aside for it). A twentieth of the goal is kept for what was not foreseen, and at least a tenth may
    be waited.

    Worked number: 2 s to the first token and 0.4 s of prompt allow 1.5 s in the queue.
    """
    return max(0.1 * ttft_goal_s, 0.95 * ttft_goal_s - (prefill_s or 0.0))
