"""Which model runs on which card: the decision that plan.yaml carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.sizing.catalogue import Catalogue
from services.sizing.fit import fit
from services.sizing.overheads import OVERHEADS
from services.sizing.plan_columns import Rig, goal_problem, wish_problem
from services.sizing.plan_explain import Explanation, explain
from services.sizing.plan_goals import RULES, WISH_RULE, Goal
from services.sizing.plan_options import Group, engine_for, group_cards, have_bytes, host_for_engines
from services.sizing.plan_place import CPU_LADDER, Seat, grown, on_card, placements_of, seat, squeezed
from services.sizing.plan_solve import Problem, Solution, solve
from services.sizing.plan_split import split_note
from services.sizing.types import Card, Engine, FitReport, Host, ModelSpec, Plan, Refusal, TextWorkload, Verdict
from services.sizing.units import MIB, gib

# What a machine without GPUs serves: small, real, licence-free.
CPU_CHAT_MODEL = "smollm2-135m-instruct"
CPU_IMAGE_MODEL = "digits-sd"
__all__ = ["Decision", "Goal", "decide", "make_plan"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and how it came to be: None for the built-in default, which weighs nothing."""

    plan: Plan
    explanation: Explanation | None


@dataclass(slots=True)
class _Draft:
    """The plan while it is made: seats by card, refusals, notes."""

    host: Host
    cards: tuple[Card, ...]
    engine: Engine | None
    seats: dict[str, tuple[Seat, ...]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    in_turns: set[str] = field(default_factory=set)  # cards whose models are loaded on demand

    def left_bytes(self, card: Card) -> int:
        """What the card can still give."""
        return have_bytes(card) - sum(report.need_bytes or 0 for _, report in self.seats.get(card.id, ()))

    def host_left(self) -> Host:
        """The host with the RAM that no engine will hold for good. What an engine takes only while it loads must fit beside the others,
        but is free again for the next: workers start one after another."""
        held = 0
        for card in self.cards:
            sizes = [(report.host.resident_bytes or 0) for _, report in self.seats.get(card.id, ()) if report.host]
            if card.vendor != "cpu":
                held += max(sizes, default=0) if card.id in self.in_turns else sum(sizes)
        return host_for_engines(self.host, held)

    def host_left_bytes(self) -> int | None:
        """None when it is not known how much there is."""
        return None if self.host.ram_bytes is None else self.host_left().ram_available_bytes

    def put(self, card: Card, *more: Seat) -> None:
        self.seats[card.id] = (*self.seats.get(card.id, ()), *more)
        for model, report in more:
            if report.verdict is Verdict.TIGHT:
                self.notes.append(f"{model.id} on {card.name} ({card.id}) is tight: {report.reason}")


def make_plan(
    host: Host, cards: Sequence[Card], catalogue: Catalogue, *, want: Sequence[tuple[str, int]] | None = None,
    engine: Engine | None = None, goal: Goal | None = None,
) -> Plan:
    """The plan of `decide`."""
    return decide(host, cards, catalogue, want=want, engine=engine, goal=goal).plan


def decide(
    host: Host, cards: Sequence[Card], catalogue: Catalogue, *, want: Sequence[tuple[str, int]] | None = None,
    engine: Engine | None = None, goal: Goal | None = None, explained: bool = False, on_demand: bool = False,
) -> Decision:
    """Decide placements.

    1. No card: an empty plan that says so.
    2. A wish list: as many copies as fit, each on a card without another copy; what has no room beside the others shares a card in turns
       (`on_demand`); what fits nowhere is refused with a report for each kind of card.
    3. Neither wish nor goal, CPU card: the built-in chat and image models side by side, the chat model in what the image model leaves.
    4. The other cards by the goal, `quality` where none is named (a CPU card too where one is).
    5. Every placement then grows into what its card has left, but for those that take turns: small ones may stay together.

    2 and 4 are solved to the optimum (plan_solve); a note says when the search stopped at its bound. Raises UnknownModelError for a wish
    that the catalogue does not have.
    """
    draft = _Draft(host, tuple(cards), engine)
    explanation: Explanation | None = None
    # 1
    if not draft.cards:
        draft.notes.append("No card: nothing can be placed.")
    # 2
    elif want is not None:
        explanation = _by_wishes(draft, catalogue, want, explained, on_demand)
    else:
        # 3
        built_in = [card for card in draft.cards if card.vendor == "cpu" and goal in (None, Goal.THROUGHPUT)]
        for card in built_in:
            _place_pair(draft, card, catalogue)
        if built_in and goal is Goal.THROUGHPUT:
            draft.notes.append("A CPU's speed is not predicted, so the CPU card has the built-in models.")
        # 4
        rest = tuple(card for card in draft.cards if card not in built_in)
        if rest:
            explanation = _by_goal(draft, catalogue, goal or Goal.QUALITY, rest, explained)
    # 5
    _grow(draft)
    placements = tuple(replace(p, on_demand=p.card_id in draft.in_turns) for p in placements_of(draft.cards, draft.seats))
    left = draft.host_left_bytes()
    if left is not None and placements and any(card.vendor != "cpu" for card in draft.cards):
        draft.notes.append(f"Host RAM: {gib(left)} of {gib(host.ram_bytes or 0)} stay free beside the system and all engines.")
    return Decision(Plan(1, host, draft.cards, placements, tuple(draft.refusals), tuple(dict.fromkeys(draft.notes))), explanation)


def _place_pair(draft: _Draft, card: Card, catalogue: Catalogue) -> None:
    known = {model.id: model for model in catalogue.models}
    for model_id in (CPU_IMAGE_MODEL, CPU_CHAT_MODEL):
        model = known.get(model_id)
        if model is None:
            draft.notes.append(f"The catalogue has no {model_id}, so the built-in plan goes without it.")
            continue
        smallest = TextWorkload(*CPU_LADDER[-1]) if model.kind == "chat" else None
        report = fit(
            card, model, draft.host, workload=smallest, engine=engine_for(draft.engine, model), have_bytes=draft.left_bytes(card),
            catalogue=catalogue,
        )  # fmt: skip
        if report.fits:
            draft.put(card, (model, squeezed(report)))
        else:
            draft.refusals.append(Refusal(model.id, (report,)))


def _by_goal(draft: _Draft, catalogue: Catalogue, goal: Goal, cards: tuple[Card, ...], explained: bool) -> Explanation | None:
    rig = _rig(draft, cards)
    problem = goal_problem(goal, rig, catalogue)
    solution = solve(problem)
    used = _seat_all(draft, rig, problem, solution)
    _say_bound(draft, solution)
    least = min(own.host_bytes for own in OVERHEADS.values())
    for index, group in enumerate(rig.groups):
        empty = [card.id for card in group.cards if not draft.seats.get(card.id)]
        if empty:
            ids = f"{', '.join(empty[:4])}{' ...' if len(empty) > 4 else ''}"
            left = draft.host_left_bytes()
            short = (left is not None and left < least) or any(column.group == index for column in problem.columns)
            why = f"the host RAM has only {gib(left or 0)} left for engines" if short else "no model is served well by it"
            draft.notes.append(f"{group.card.name}: nothing on {len(empty)} of {len(group.cards)} ({ids}), because {why}.")
    return explain(goal.value, RULES[goal], rig.groups, problem, solution, used) if explained else None


def _by_wishes(
    draft: _Draft, catalogue: Catalogue, want: Sequence[tuple[str, int]], explained: bool, on_demand: bool
) -> Explanation | None:
    """1. The solver's optimum. 2. What it left over is tried on what is left. 3. What still has no place takes turns on a card
    (`on_demand`), or is refused."""
    wishes = [(catalogue.get(name), count) for name, count in want]
    rig = _rig(draft, draft.cards)
    # 1
    problem, cut = wish_problem(rig, wishes)
    solution = solve(problem)
    used = _seat_all(draft, rig, problem, solution)
    _say_bound(draft, solution)
    if cut:
        draft.notes.append("Not every set of models that could share a card was looked at: the list is long.")
    # 2, 3
    for model in {model.id: model for model, _ in wishes}.values():
        asked = sum(count for other, count in wishes if other.id == model.id)
        placed = sum(other.id == model.id for seats in draft.seats.values() for other, _ in seats)
        while placed < asked:
            if not (on_demand and _in_turns(draft, model, catalogue)) and not _one_more(draft, rig, model, catalogue, placed, asked):
                break
            placed += 1
    return explain("wish list", WISH_RULE, rig.groups, problem, solution, used) if explained else None


def _in_turns(draft: _Draft, model: ModelSpec, catalogue: Catalogue) -> bool:
    """One more copy on a card whose models then take turns, each loaded when somebody asks for it. False: it fits beside the others of some
    card, or no card at all. Of the cards that it fits by itself, the one that is least promised."""
    host = draft.host_left()
    alone: list[tuple[int, Card, FitReport]] = []
    for card in draft.cards:
        if any(other.id == model.id for other, _ in draft.seats.get(card.id, ())):
            continue
        engine, on_host = engine_for(draft.engine, model), draft.host if card.vendor == "cpu" else host
        left_bytes = draft.left_bytes(card)
        if left_bytes > 0 and fit(card, model, on_host, engine=engine, have_bytes=left_bytes, catalogue=catalogue).fits:
            return False
        report = fit(card, model, on_host, engine=engine, have_bytes=have_bytes(card), catalogue=catalogue)
        if report.fits:
            alone.append((left_bytes, card, report))
    if not alone:
        return False
    _, card, report = max(alone, key=lambda one: one[0])
    draft.put(card, (model, squeezed(report)))
    if card.id not in draft.in_turns:
        draft.in_turns.add(card.id)
        draft.notes.append(f"{card.name} ({card.id}): its models don't fit together, so they are loaded on demand and take turns.")
    return True


def _one_more(draft: _Draft, rig: Rig, model: ModelSpec, catalogue: Catalogue, placed: int, asked: int) -> bool:
    """Place one more copy on what is left; False: refused, with one report for each kind of card that has no copy yet."""
    host = draft.host_left()
    reports: list[FitReport] = []
    for group in rig.groups:
        free = [card for card in group.cards if all(other.id != model.id for other, _ in draft.seats.get(card.id, ()))]
        if not free:
            continue
        card = max(free, key=draft.left_bytes)
        report = fit(
            card, model, draft.host if card.vendor == "cpu" else host, engine=engine_for(draft.engine, model),
            have_bytes=draft.left_bytes(card), catalogue=catalogue,
        )  # fmt: skip
        if report.fits:
            draft.put(card, (model, squeezed(report)))
            return True
        reports.append(report)
    if placed:
        draft.notes.append(f"{model.id}: {placed} of {asked} copies are placed.")
    if not reports:
        draft.notes.append(f"{model.id}: every card has a copy already, and a second on the same card would share its bandwidth.")
        return False
    draft.refusals.append(Refusal(model.id, tuple(reports)))
    needs = [report.need_bytes for report in reports if report.need_bytes is not None]
    haves = [have_bytes(card) for card in draft.cards]
    if needs and max(haves) < min(needs) <= sum(haves):
        draft.notes.append(split_note(model.id, draft.cards))
    return False


def _rig(draft: _Draft, cards: tuple[Card, ...]) -> Rig:
    left = draft.host_left_bytes()
    return Rig(draft.host, group_cards(cards), draft.engine, None if left is None else left // MIB)


def _seat_all(draft: _Draft, rig: Rig, problem: Problem, solution: Solution) -> dict[int, tuple[str, ...]]:
    """Seats on real cards, the cards of a kind in their order. The ids of the cards of each column that was used."""
    waiting = {index: list(group.cards) for index, group in enumerate(rig.groups)}
    used: dict[int, tuple[str, ...]] = {}
    for number, (column, count) in enumerate(zip(problem.columns, solution.counts, strict=True)):
        if not count:
            continue
        group: Group = rig.groups[column.group]
        seats = seat(group.card, group.have_bytes, rig.host, column.options)
        mine, waiting[column.group] = waiting[column.group][:count], waiting[column.group][count:]
        for card in mine:
            draft.put(card, *on_card(card, seats))
        used[number] = tuple(card.id for card in mine)
    return used


def _say_bound(draft: _Draft, solution: Solution) -> None:
    if not solution.complete:
        bound = solution.bound_points
        most = "a better one may exist" if bound is None else f"no plan can have more than {bound:.1f}"
        draft.notes.append(f"{solution.solver} stopped at its bound: this plan has {solution.points:.1f} points, {most}.")


def _grow(draft: _Draft) -> None:
    """Equal cards with equal seats grow alike, so each kind is asked about once."""
    done: dict[tuple[Group, tuple[tuple[str, int | None], ...]], tuple[Seat, ...]] = {}
    for group in group_cards(draft.cards):
        for card in group.cards:
            seats = draft.seats.get(card.id, ())
            if card.id in draft.in_turns:
                continue
            key = (group, tuple((f"{report.model_id} {report.variant_id} {report.workload}", report.need_bytes) for _, report in seats))
            if key not in done:
                done[key] = grown(card, group.have_bytes, draft.host, seats)
            draft.seats[card.id] = on_card(card, done[key])
