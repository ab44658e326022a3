"""Why each card got what it got: the terms of the choice, and the best other choice for that card with the rest of the plan as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from services.sizing.plan_options import Group
from services.sizing.plan_solve import Column, Problem, Solution, Term


@dataclass(frozen=True, slots=True)
class Choice:
    """Models on one card, their points there, and the terms that add up to them."""

    models: tuple[str, ...]
    points: float
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What some cards of a kind got. `runner_up`: the best other choice for one of them with the rest of the plan as it is; None where
    there is no other. `why` says what speaks against it."""

    card_name: str
    card_ids: tuple[str, ...]
    choice: Choice
    runner_up: Choice | None
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the plan came to be. `complete` False: the search was stopped. No plan can have more than `bound_points`; None: unknown."""

    goal: str
    rule: str
    solver: str
    complete: bool
    points: float
    bound_points: float | None
    host_used_mib: int
    host_mib: int | None
    chosen: tuple[Chosen, ...]


def explain(
    goal: str, rule: str, groups: Sequence[Group], problem: Problem, solution: Solution, cards: dict[int, tuple[str, ...]]
) -> Explanation:
    """`cards`: for the index of each column that was used, the ids of the cards that got it."""
    counts = Counter(dict(enumerate(solution.counts)))
    chosen = tuple(_chosen(groups, problem, counts, index, ids) for index, ids in cards.items())
    return Explanation(
        goal, rule, solution.solver, solution.complete, solution.points, solution.bound_points, _host_mib(problem, counts),
        problem.host_mib, chosen,
    )  # fmt: skip


def _chosen(groups: Sequence[Group], problem: Problem, counts: Counter[int], index: int, ids: tuple[str, ...]) -> Chosen:
    """1. The rest of the plan: all but one of these cards. 2. Every other set of models for it that the wish list allows, by the points
    that it would add to the rest. 3. The best of them lacks points, or host RAM."""
    column = problem.columns[index]
    # 1
    rest = counts - Counter({index: 1})
    brought = Counter(dict.fromkeys(problem.bonuses, 0))
    for other, count in rest.items():
        brought.update({tag: count * many for tag, many in Counter(problem.columns[other].tags).items()})
    # 2
    models = {option.model.id for option in column.options}
    swaps = [
        (_choice(problem, other, brought), number)
        for number, other in enumerate(problem.columns)
        if other.group == column.group and {option.model.id for option in other.options} != models and _allowed(problem, other, brought)
    ]
    mine = _choice(problem, column, brought)
    second, number = max(swaps, key=lambda swap: swap[0].points, default=(None, -1))
    # 3
    if second is None:
        why = "no other model has a way to run on it"
    elif second.points <= mine.points:
        why = f"{mine.points - second.points:.4g} points less"
    else:
        over = _host_mib(problem, rest + Counter({number: 1})) - (problem.host_mib or 0)
        why = f"{second.points - mine.points:.4g} points more, but {over} MiB more host RAM than there is"
    return Chosen(groups[column.group].card.name, ids, mine, second, why)


def _choice(problem: Problem, column: Column, brought: Counter[str]) -> Choice:
    """A column beside the rest: its own terms, and the bonuses that nothing else brings."""
    new = [tag for tag in dict.fromkeys(column.tags) if tag in problem.bonuses and not brought[tag]]
    terms = column.terms + tuple(Term(f"first {tag.replace(':', ' ', 1)}", problem.bonuses[tag]) for tag in new)
    return Choice(tuple(option.words for option in column.options), sum(term.points for term in terms), terms)


def _allowed(problem: Problem, column: Column, brought: Counter[str]) -> bool:
    return all(brought[tag] + column.tags.count(tag) <= problem.caps.get(tag, 2**31) for tag in column.tags)


def _host_mib(problem: Problem, counts: Counter[int]) -> int:
    """Host RAM that a plan needs at its worst moment: what all engines hold, and what one more takes while it loads."""
    held = sum(problem.columns[index].resident_mib * count for index, count in counts.items())
    return held + max((problem.columns[index].loading_mib for index, count in counts.items() if count), default=0)
