"""The solver against every assignment there is, on rigs small enough to try them all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sizing import plan_solve
from services.sizing.cards import parse_cards
from services.sizing.catalogue import load_catalogue
from services.sizing.plan_options import Option, group_cards, options_of
from services.sizing.plan_solve import LOADING_STEP_MIB, Column, Problem, Term, points_of, solve
from services.sizing.types import Host
from services.sizing.units import GIB, MIB

HOST = Host(16 * GIB, 12 * GIB, "Celeron", 2, (), "x86_64")
OPTION: Option = options_of(
    group_cards(parse_cards("RTX 3060 Ti"))[0], load_catalogue().get("qwen2.5-0.5b-instruct"), HOST, None, every_level=False
)[0]
TAGS = ("model:a", "model:b", "work:image")


def column(group: int, points: float, resident_mib: int, loading_mib: int, tags: tuple[str, ...]) -> Column:
    option = replace(OPTION, resident_bytes=resident_mib * MIB, loading_bytes=loading_mib * MIB)
    return Column(group, (option,), (Term("points", points),), tags)


columns = st.builds(
    column, st.integers(0, 1), st.integers(-5, 20).map(float), st.integers(0, 900), st.integers(0, 900),
    st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
)  # fmt: skip
problems = st.builds(
    Problem, st.tuples(st.integers(1, 3), st.integers(0, 2)), st.lists(columns, min_size=1, max_size=4).map(tuple),
    st.dictionaries(st.sampled_from(TAGS), st.integers(0, 30).map(float)), st.dictionaries(st.sampled_from(TAGS), st.integers(0, 3)),
    st.none() | st.integers(0, 2500),
)  # fmt: skip


def allowed(problem: Problem, counts: tuple[int, ...]) -> bool:
    used = [(one, count) for one, count in zip(problem.columns, counts, strict=True) if count]
    for group, size in enumerate(problem.sizes):
        if sum(count for one, count in used if one.group == group) > size:
            return False
    if any(sum(one.tags.count(tag) * count for one, count in used) > most for tag, most in problem.caps.items()):
        return False
    held = sum(one.resident_mib * count for one, count in used)
    return problem.host_mib is None or held + max((one.loading_mib for one, _ in used), default=0) <= problem.host_mib


@settings(max_examples=60, deadline=None)
@given(problems)
def test_no_assignment_is_better(problem: Problem) -> None:
    every = product(*(range(problem.sizes[one.group] + 1) for one in problem.columns))
    best = max(points_of(problem, counts) for counts in every if allowed(problem, counts))
    found = solve(problem)
    assert found.complete
    assert allowed(problem, found.counts)
    assert abs(found.points - best) < 1e-6
    assert solve(problem).counts == found.counts, "the same question has the same answer"


def test_what_loads_is_rounded_up() -> None:
    assert column(0, 1, 0, 1, ()).loading_mib == LOADING_STEP_MIB
    assert column(0, 1, 0, 0, ()).loading_mib == 0


def test_a_search_that_was_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [column(0, 10 + (7 * i) % 11, 37 + (53 * i) % 97, 0, (f"model:{i}",)) for i in range(60)]
    problem = Problem((40,), tuple(many), {}, {f"model:{i}": 1 for i in range(60)}, 1111)
    whole = solve(problem)
    assert whole.complete
    assert whole.bound_points == whole.points
    monkeypatch.setattr(plan_solve, "MOST_SECONDS", 0.0)
    cut = solve(problem)
    assert not cut.complete
    assert cut.points <= whole.points + 1e-6
    assert cut.bound_points is None or whole.points <= cut.bound_points + 1e-6


def test_nothing_but_planning_pays_for_the_solver() -> None:
    code = "import sys, services.cli.main, services.sizing.plan, services.gateway.__main__; print({'highspy', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
