"""The columns that the solver chooses from: for each kind of card, the models (alone or together) that one such card can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from services.sizing.catalogue import Catalogue
from services.sizing.plan_goals import (
    FIRST_COPY,
    ONE_IMAGE_MODEL,
    ONE_MORE_WORK,
    SMALLEST_SHARE,
    WORKS,
    Goal,
    coverage_terms,
    quality_terms,
    served_well,
    tags_of,
    throughput_terms,
    wish_terms,
    work_of,
)
from services.sizing.plan_options import Group, Option, options_of
from services.sizing.plan_solve import Column, Problem
from services.sizing.quality import Merit, merits
from services.sizing.types import Engine, Host, ModelSpec, Verdict

MOST_ON_A_CARD = 4
MOST_SETS = 8_000  # sets of models that are looked at for one kind of card; of a long list of wishes fewer, pairs first
MOST_SETS_OF_MANY = 1_500
MOST_OF_A_MIX = 40
MOST_OF_A_WORK = 8
MANY_WISHES = 8


@dataclass(frozen=True, slots=True)
class Rig:
    """What a plan is made for. `host_mib`: host RAM for all engines together, None where nobody knows."""

    host: Host
    groups: tuple[Group, ...]
    engine: Engine | None
    host_mib: int | None

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(group.cards) for group in self.groups)


def goal_problem(goal: Goal, rig: Rig, catalogue: Catalogue) -> Problem:
    """1. What each kind of card serves well, alone on a card. 2. Under `coverage` on a rig of few cards, also sets of different work.
    3. What another of the same kind and work beats in points and host RAM is left out. 4. The goal's bonuses.
    """
    worth = merits(catalogue.models)
    works = {work_of(model) for model in catalogue.models}
    few = goal is Goal.COVERAGE and sum(rig.sizes) < len(works)
    columns: list[Column] = []
    for index, group in enumerate(rig.groups):
        # 1
        every = (o for model in catalogue.models for o in options_of(group, model, rig.host, rig.engine, every_level=False))
        good = [option for option in every if served_well(option)]
        columns += _singles(goal, index, good, worth)
        # 2
        if few:
            ways = [_different_models([o for o in good if work_of(o.model) == work], worth) for work in WORKS if work in works]
            sets, _ = _sets(ways, group.have_bytes)
            columns += _best_of_each_mix([Column(index, chosen, coverage_terms(chosen, worth), tags_of(chosen)) for chosen in sets], worth)
    # 3
    by_model = goal is Goal.COVERAGE
    columns = _undominated(columns, lambda column: column.tags if by_model else tuple(work_of(o.model) == "image" for o in column.options))
    # 4
    bonuses: dict[str, float] = {"work:image": ONE_IMAGE_MODEL} if sum(rig.sizes) > 1 else {}
    if by_model:
        bonuses = {f"work:{work}": ONE_MORE_WORK for work in WORKS}
        bonuses |= {f"model:{o.model.id}": worth[o.model.id].points for column in columns for o in column.options}
    return Problem(rig.sizes, tuple(columns), bonuses, {}, rig.host_mib)


def wish_problem(rig: Rig, wishes: Sequence[tuple[ModelSpec, int]]) -> tuple[Problem, bool]:
    """Every model of the list on a card of its own, and sets that share one. True: there were too many sets to look at all."""
    caps: dict[str, int] = {}
    for model, count in wishes:
        caps[f"model:{model.id}"] = caps.get(f"model:{model.id}", 0) + count
    models = {model.id: model for model, _ in wishes}.values()
    columns: list[Column] = []
    cut = False
    for index, group in enumerate(rig.groups):
        by_model = [options_of(group, model, rig.host, rig.engine, every_level=True) for model in models]
        alone = [(option,) for options in by_model for option in options]
        ways, most = (3, MOST_SETS) if len(models) <= MANY_WISHES else (1, MOST_SETS_OF_MANY)
        sets, more = _sets([_leaner(group, options, ways) for options in by_model], group.have_bytes, most)
        columns += [Column(index, chosen, wish_terms(group, chosen), tags_of(chosen)) for chosen in (*alone, *sets)]
        cut = cut or more
    bonuses = dict.fromkeys(caps, FIRST_COPY)
    return Problem(rig.sizes, tuple(_undominated(columns, lambda column: column.tags)), bonuses, caps, rig.host_mib), cut


def _singles(goal: Goal, index: int, good: list[Option], worth: dict[str, Merit]) -> list[Column]:
    fewest = SMALLEST_SHARE * max((o.model.params or 0 for o in good if o.model.kind == "chat"), default=0)
    found = []
    for option in good:
        merit = worth[option.model.id]
        if goal is Goal.QUALITY:
            terms = quality_terms(option, merit)
        elif goal is Goal.THROUGHPUT:
            terms = throughput_terms(option, fewest)
        else:
            terms = coverage_terms((option,), worth)
        if terms is not None:
            found.append(Column(index, (option,), terms, tags_of((option,))))
    return found


def _different_models(options: list[Option], worth: dict[str, Merit]) -> list[Option]:
    """The options that no better model undercuts, best first: each next one takes less of the card. Some of them, always the leanest."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (-worth[o.model.id].points, o.need_bytes)):
        if not kept or option.need_bytes < kept[-1].need_bytes:
            kept.append(option)
    step = max(1, -(-len(kept) // MOST_OF_A_WORK))
    return kept[::-step][::-1]


def _best_of_each_mix(columns: list[Column], worth: dict[str, Merit]) -> list[Column]:
    """Of each mix of works the columns with the best models, and those that take less host RAM than all better ones."""
    mixes: dict[tuple[str, ...], list[Column]] = {}
    for column in sorted(columns, key=lambda column: -sum(worth[option.model.id].points for option in column.options) - column.points):
        mine = mixes.setdefault(tuple(work_of(option.model) for option in column.options), [])
        if len(mine) < MOST_OF_A_MIX or column.resident_mib + column.loading_mib < min(c.resident_mib + c.loading_mib for c in mine):
            mine.append(column)
    return [column for mine in mixes.values() for column in mine]


def _leaner(group: Group, options: list[Option], most: int) -> list[Option]:
    """Ways of one model that may share a card: the one with most points, then ways that take less; the leanest is always among them."""
    kept: list[Option] = []
    fitting = [option for option in options if option.verdict is Verdict.FITS]
    for option in sorted(fitting, key=lambda o: (-sum(term.points for term in wish_terms(group, (o,))), o.need_bytes)):
        if not kept or option.need_bytes < kept[-1].need_bytes:
            kept.append(option)
    return kept[: most - 1] + kept[most - 1 :][-1:]


def _sets(ways: Sequence[list[Option]], have_bytes: int, most: int = MOST_SETS) -> tuple[list[tuple[Option, ...]], bool]:
    """Sets of two to four options, at most one of each list, that fit one card together; pairs first. True: not all were looked at."""
    found: list[tuple[Option, ...]] = []
    looked = 0
    filled = [options for options in ways if options]
    for size in range(2, MOST_ON_A_CARD + 1):
        for lists in combinations(filled, size):
            if sum(min(o.need_bytes for o in options) for options in lists) > have_bytes:
                continue
            for chosen in product(*lists):
                looked += 1
                if looked > most:
                    return found, True
                if sum(option.need_bytes for option in chosen) <= have_bytes:
                    found.append(chosen)
    return found, False


def _undominated(columns: list[Column], alike: Callable[[Column], object]) -> list[Column]:
    """Without the columns that another on the same kind of card, bringing the same, beats in points and in host RAM."""
    buckets: dict[tuple[int, object], list[Column]] = {}
    for column in columns:
        buckets.setdefault((column.group, alike(column)), []).append(column)
    kept: list[Column] = []
    for bucket in buckets.values():
        ranked = sorted(bucket, key=lambda column: column.options[0].model.id, reverse=True)  # families count their generations upward
        seen: list[tuple[int, int]] = []
        for column in sorted(ranked, key=lambda column: -round(column.points, 9)):
            cost = (column.resident_mib, column.loading_mib)
            if not any(other[0] <= cost[0] and other[1] <= cost[1] for other in seen):
                seen.append(cost)
                kept.append(column)
    return kept
