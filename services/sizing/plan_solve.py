"""The assignment as an integer programme, solved by HiGHS: how many cards of each kind get which set of models.

The unit is a kind of card, not a card, so that twelve equal cards are one number and not twelve that can be swapped. Everything is
whole MiB, so that no rounding of the solver can promise memory that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from services.sizing.plan_options import Option
from services.sizing.units import MIB

# Both bound the search; the first gives the same answer on every machine. Twelve cards and 120 models take a fraction of either.
MOST_NODES = 20_000
MOST_SECONDS = 5.0
LOADING_STEP_MIB = 128


@dataclass(frozen=True, slots=True)
class Term:
    """One reason for a choice, in points."""

    name: str
    points: float
    words: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One set of models on one card of a kind. `tags` say what it brings (`model:ID`, `work:image`): bonuses and caps speak of them."""

    group: int
    options: tuple[Option, ...]
    terms: tuple[Term, ...]
    tags: tuple[str, ...]

    @property
    def points(self) -> float:
        return sum(term.points for term in self.terms)

    @property
    def resident_mib(self) -> int:
        return sum(math.ceil(option.resident_bytes / MIB) for option in self.options)

    @property
    def loading_mib(self) -> int:
        """Rounded up to a step, so that few kinds of it remain."""
        return max((math.ceil(option.loading_bytes / MIB / LOADING_STEP_MIB) * LOADING_STEP_MIB for option in self.options), default=0)


@dataclass(frozen=True, slots=True)
class Problem:
    """`sizes`: cards of each kind. `bonuses`: points for a tag that appears at least once. `caps`: how often a tag may appear."""

    sizes: tuple[int, ...]
    columns: tuple[Column, ...]
    bonuses: dict[str, float]
    caps: dict[str, int]
    host_mib: int | None


@dataclass(frozen=True, slots=True)
class Solution:
    """`counts`: cards for each column. `bound_points`: no plan can have more; equal to `points` when `complete`, None when not known."""

    counts: tuple[int, ...]
    points: float
    bound_points: float | None
    complete: bool
    solver: str


_Row = tuple[float, float, list[tuple[int, float]]]


def solve(problem: Problem) -> Solution:
    """The counts with most points.

    Maximise sum of points x count + bonuses, subject to:
    1. each kind: counts add up to no more than its cards;
    2. each cap; 3. a bonus is paid only when something brings its tag;
    4. host RAM: what all engines hold for good, and beside it what the greediest takes while it loads (workers start one by one).
    """
    import highspy  # only planning a rig of GPUs pays for the solver's import

    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (("output_flag", False), ("threads", 1), ("parallel", "off"), ("random_seed", 0), ("mip_rel_gap", 1e-9),
                          ("mip_abs_gap", 1e-7), ("mip_max_nodes", MOST_NODES), ("time_limit", MOST_SECONDS)):  # fmt: skip
        solver.setOptionValue(option, value)
    solver.passModel(_model(problem))
    solver.run()
    complete = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    values = list(solver.getSolution().col_value)[: len(problem.columns)] or [0.0] * len(problem.columns)
    counts = tuple(round(value) for value in values)
    points = points_of(problem, counts)
    bound = points if complete else float(solver.getInfo().mip_dual_bound)
    return Solution(counts, points, bound if math.isfinite(bound) else None, complete, f"HiGHS {solver.version()}")


def _model(problem: Problem) -> Any:
    """The programme in HiGHS's own form: a matrix by rows."""
    import highspy

    costs, uppers, integral = _variables(problem)
    rows = list(_rows(problem))
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(costs), len(rows)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_, model.col_lower_, model.col_upper_ = costs, [0.0] * len(costs), uppers
    model.row_lower_, model.row_upper_ = [low for low, _, _ in rows], [high for _, high, _ in rows]
    kinds = highspy.HighsVarType
    model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in integral]
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.num_col_, model.a_matrix_.num_row_ = len(costs), len(rows)
    model.a_matrix_.start_ = list(accumulate((len(entries) for _, _, entries in rows), initial=0))
    model.a_matrix_.index_ = [column for _, _, entries in rows for column, _ in entries]
    model.a_matrix_.value_ = [weight for _, _, entries in rows for _, weight in entries]
    return model


def points_of(problem: Problem, counts: tuple[int, ...]) -> float:
    """The objective of some counts, in our own arithmetic."""
    used = [column for column, count in zip(problem.columns, counts, strict=True) if count]
    brought = {tag for column in used for tag in column.tags}
    own = sum(column.points * count for column, count in zip(problem.columns, counts, strict=True))
    return own + sum(points for tag, points in problem.bonuses.items() if tag in brought)


def _variables(problem: Problem) -> tuple[list[float], list[float], list[bool]]:
    """Cost, upper bound and integrality of: each column's count, each bonus, each step of loading, the most that loads at once."""
    steps = _loading_steps(problem)
    costs = [column.points for column in problem.columns] + list(problem.bonuses.values()) + [0.0] * (len(steps) + 1)
    uppers = [float(problem.sizes[column.group]) for column in problem.columns] + [1.0] * (len(problem.bonuses) + len(steps)) + [math.inf]
    return costs, uppers, [True] * (len(costs) - 1) + [False]


def _rows(problem: Problem) -> Iterator[_Row]:
    columns = problem.columns
    tagged: dict[str, list[tuple[int, float]]] = {}
    for index, column in enumerate(columns):
        for tag in dict.fromkeys(column.tags):
            tagged.setdefault(tag, []).append((index, float(column.tags.count(tag))))
    # 1
    for group, size in enumerate(problem.sizes):
        yield -math.inf, float(size), [(index, 1.0) for index, column in enumerate(columns) if column.group == group]
    # 2
    for tag, most in problem.caps.items():
        if tag in tagged:
            yield -math.inf, float(most), tagged[tag]
    # 3
    for index, tag in enumerate(problem.bonuses, start=len(columns)):
        yield -math.inf, 0.0, [(index, 1.0), *((column, -1.0) for column, _ in tagged.get(tag, []))]
    # 4
    if problem.host_mib is not None:
        yield from _host_rows(problem, len(columns) + len(problem.bonuses))


def _host_rows(problem: Problem, first: int) -> Iterator[_Row]:
    steps = _loading_steps(problem)
    most = first + len(steps)
    held = [(index, float(column.resident_mib)) for index, column in enumerate(problem.columns)]
    assert problem.host_mib is not None
    yield -math.inf, float(problem.host_mib), [*held, (most, 1.0)]
    cards = float(sum(problem.sizes))
    for offset, step in enumerate(steps):
        heavy = [(index, 1.0) for index, column in enumerate(problem.columns) if column.loading_mib >= step]
        yield -math.inf, 0.0, [*heavy, (first + offset, -cards)]
        yield 0.0, math.inf, [(most, 1.0), (first + offset, -float(step))]


def _loading_steps(problem: Problem) -> list[int]:
    return sorted({column.loading_mib for column in problem.columns if column.loading_mib})
