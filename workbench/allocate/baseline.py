"""What the baselines share: one number from mild to harsh decides the whole plan."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from workbench.allocate.allocation import Allocation, degradation_limit, within_budgets
from workbench.allocate.exact import Exact
from workbench.allocate.problem import Cheapest, Problem
from workbench.allocate.unreachable import Unreachable

Level = TypeVar("Level")


def fit(problem: Problem, levels: Sequence[Level], plan: Callable[[Level], list[int]]) -> Allocation:
    """The plan at the mildest level that fits; for the objective ``Cheapest``, at the harshest it allows.

    ``levels`` run from mild to harsh; ``plan`` gives the option numbers at a level.

    Raises
    ------
    Unreachable
        No plan at all fits, or none of this kind.
    """
    if isinstance(problem.objective, Cheapest):
        limit = degradation_limit(problem.objective)
        harshest = bisect_right(levels, False, key=lambda level: problem.degradation(plan(level)) > limit) - 1
        place = max(0, harshest)
    else:
        place = min(bisect_left(levels, True, key=lambda level: within_budgets(problem, plan(level))), len(levels) - 1)
    picked = plan(levels[place])
    if not within_budgets(problem, picked):
        Exact().solve(problem)  # raises, with the reason, where no plan at all fits
        raise Unreachable("no plan of this kind meets the budgets, though others do; use the exact solver")
    return Allocation.of(problem, picked)
