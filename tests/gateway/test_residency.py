"""Which models are in memory: the decision alone, by its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.gateway.residency import (
    Demand,
    Load,
    Phase,
    Role,
    Unload,
    Uses,
    decide,
    least_stay_s,
    paid_s,
    price_of,
)
from services.sizing.units import GIB

ROOM = {"a": 8 * GIB}
NOW = 1000.0


def role(model: str, gib: float, phase: Phase = Phase.UNLOADED, card: str = "a", load_s: float | None = 20.0, **more: object) -> Role:
    return replace(Role(f"{model}@{card}", model, card, int(gib * GIB), load_s, phase), **more)  # type: ignore[arg-type]


def waiting(*ages_s: float, per_s: float = 0.0) -> Demand:
    return Demand(tuple(NOW - age_s for age_s in ages_s), per_s)


def ids(acts: list[Load | Unload]) -> list[str]:
    return [f"{'load' if isinstance(act, Load) else 'unload'} {act.role_id}" for act in acts]


def test_worked_numbers() -> None:
    uses = Uses()
    for number in range(30):
        uses.add(number * 10.0)
    assert uses.per_s(290.0) == pytest.approx(0.064, abs=0.001)
    assert paid_s(waiting(10, 4), NOW) == 14
    assert least_stay_s(role("m", 5, load_s=40.0)) == 40.0
    assert price_of(role("m", 5), role("n", 5), waiting(1, per_s=0.05)) == pytest.approx(120.0)
    assert role("m", 5, load_s=None).bus_s == 30.0


def test_room_is_used_at_once_and_a_load_is_asked_for_once_however_many_wait() -> None:
    many = {"m": waiting(*range(50))}
    assert ids(decide(ROOM, [role("m", 5), role("n", 3, Phase.LOADED)], many, NOW)) == ["load m@a"]
    assert decide(ROOM, [role("m", 5, Phase.LOADING), role("n", 3, Phase.LOADED)], many, NOW) == []
    assert decide(ROOM, [role("m", 5, Phase.LOADED)], many, NOW) == [], "they wait for slots, not for a load"


def test_what_nobody_wants_is_not_loaded() -> None:
    assert decide(ROOM, [role("m", 5)], {}, NOW) == []


def test_the_price_is_paid_in_waiting() -> None:
    """n is used 0.01 times a second: 0.01 x 40 s x 40 s = 16 request seconds."""
    roles = [role("m", 5), role("n", 5, Phase.LOADED)]
    used = Demand(per_s=0.01)
    assert decide(ROOM, roles, {"m": waiting(15), "n": used}, NOW) == []
    (act,) = decide(ROOM, roles, {"m": waiting(16), "n": used}, NOW)
    assert act == Unload("n@a", "its room is needed for m")
    assert ids(decide(ROOM, roles, {"m": waiting(8, 8), "n": used}, NOW)) == ["unload n@a"], "two wait: twice as fast"
    assert ids(decide(ROOM, roles, {"m": waiting(0)}, NOW)) == ["unload n@a"], "what is never used costs nothing"


def test_waiting_counts_from_when_the_other_was_loaded() -> None:
    """Else a long queue would have paid for every swap before it begins, and the card would only swap."""
    roles = [role("m", 5), role("n", 5, Phase.LOADED, since_s=NOW - 30)]
    long = {"m": waiting(*[500] * 10), "n": waiting(*[480] * 10)}
    assert decide(ROOM, roles, long, NOW) == []
    assert ids(decide(ROOM, [roles[0], replace(roles[1], since_s=NOW - 41)], long, NOW)) == ["unload n@a"]


def test_nobody_waits_for_ever() -> None:
    """n is in great demand: the price is beyond reach, but whoever waits for m is 80 s (4 loads) before those who wait for n."""
    roles = [role("m", 5), role("n", 5, Phase.LOADED)]
    busy = waiting(*[5] * 20, per_s=2.0)
    assert decide(ROOM, roles, {"m": waiting(84), "n": busy}, NOW) == []
    assert ids(decide(ROOM, roles, {"m": waiting(85), "n": busy}, NOW)) == ["unload n@a"]


def test_the_least_stay() -> None:
    roles = [role("m", 5), role("n", 5, Phase.LOADED, since_s=NOW - 19)]
    assert decide(ROOM, roles, {"m": waiting(500)}, NOW) == []
    assert ids(decide(ROOM, [roles[0], replace(roles[1], since_s=NOW - 20)], {"m": waiting(500)}, NOW)) == ["unload n@a"]


def test_the_least_valuable_byte_goes_and_no_more_than_needed() -> None:
    kept = {"m": waiting(500), "n": Demand(per_s=0.02), "o": Demand(per_s=0.001), "p": Demand(per_s=0.002)}
    roles = [role("m", 2), role("n", 4, Phase.LOADED), role("o", 2, Phase.LOADED), role("p", 2, Phase.LOADED)]
    assert ids(decide(ROOM, roles, kept, NOW)) == ["unload o@a"]
    roles[0] = role("m", 4)
    assert sorted(ids(decide(ROOM, roles, kept, NOW))) == ["unload o@a", "unload p@a"]
    roles = [role("m", 6), role("n", 6, Phase.LOADED), role("o", 1, Phase.LOADED)]
    assert ids(decide(ROOM, roles, {"m": waiting(5000), "n": Demand(per_s=0.02), "o": Demand(per_s=0.001)}, NOW)) == ["unload n@a"], (
        "o was cheaper by the byte, but with n gone it may stay")


def test_of_equals_the_longest_unused_goes() -> None:
    roles = [role("m", 4), role("n", 4, Phase.LOADED, used_s=900.0), role("o", 4, Phase.LOADED, used_s=800.0)]
    assert ids(decide(ROOM, roles, {"m": waiting(1)}, NOW)) == ["unload o@a"]


def test_one_load_on_a_bus_at_a_time_and_room_that_is_spoken_for_is_kept() -> None:
    assert decide(ROOM, [role("m", 3), role("n", 3, Phase.LOADING)], {"m": waiting(500)}, NOW) == []
    leaving = [role("m", 6), role("n", 5, Phase.LEAVING), role("o", 3)]
    first = {"m": waiting(50), "o": waiting(1)}
    assert decide(ROOM, leaving, first, NOW) == [], "m has what is coming; o would take it away"
    assert ids(decide(ROOM, leaving, {"o": waiting(1)}, NOW)) == ["load o@a"]


def test_the_card_where_it_costs_least() -> None:
    two = {"a": 8 * GIB, "b": 8 * GIB}
    roles = [role("m", 5), role("m", 5, card="b", load_s=25.0), role("n", 5, Phase.LOADED), role("o", 5, Phase.LOADED, card="b")]
    assert ids(decide(two, roles, {"m": waiting(99), "n": Demand(per_s=0.01)}, NOW)) == ["unload o@b"]
    assert ids(decide(two, roles[:3], {"m": waiting(0), "n": Demand(per_s=0.01)}, NOW)) == ["load m@b"]


def test_pins_and_orders() -> None:
    pinned = [role("m", 5), role("n", 5, Phase.LOADED, pinned=True)]
    assert decide(ROOM, pinned, {"m": waiting(5000)}, NOW) == []
    assert ids(decide(ROOM, [role("m", 5, pinned=True), role("n", 5, Phase.LOADED)], {"n": Demand(per_s=1.0)}, NOW)) == ["unload n@a"]
    ordered = {"m": Demand(ordered=True), "n": waiting(50, per_s=1.0), "o": waiting(100)}
    assert ids(decide(ROOM, [role("m", 5), role("n", 5, Phase.LOADED), role("o", 5)], ordered, NOW)) == ["unload n@a"]


def test_keep_alive() -> None:
    idle = role("m", 5, Phase.LOADED, since_s=0.0, used_s=NOW - 300, keep_alive_s=300.0)
    assert decide(ROOM, [idle], {}, NOW) == [Unload("m@a", "no request for 300 s")]
    changes: list[dict[str, object]] = [
        {"used_s": NOW - 299}, {"in_flight": 1}, {"pinned": True}, {"keep_alive_s": None}, {"used_s": None, "since_s": NOW - 299},
    ]  # fmt: skip
    for change in changes:
        assert decide(ROOM, [replace(idle, **change)], {}, NOW) == []  # type: ignore[arg-type]
    assert decide(ROOM, [idle], {"m": waiting(1)}, NOW) == []
    assert ids(decide(ROOM, [replace(idle, keep_alive_s=0.0, used_s=NOW)], {}, NOW)) == ["unload m@a"]


def test_the_silent_hold_their_bytes_and_the_failed_hold_none() -> None:
    want = {"m": waiting(500)}
    assert decide(ROOM, [role("m", 5), role("n", 5, Phase.SILENT)], want, NOW) == []
    assert ids(decide(ROOM, [role("m", 5), role("n", 5, Phase.FAILED)], want, NOW)) == ["load m@a"]
    assert decide(ROOM, [role("m", 5, Phase.FAILED)], want, NOW) == []
