"""The exact solver: the problem handed to the compiled core, and its answer handed back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workbench import _core
from workbench.allocate.allocation import PROVEN_GAP, Allocation, degradation_limit, within_budgets
from workbench.allocate.edit import take_options
from workbench.allocate.pieces import Resource
from workbench.allocate.problem import Cheapest, LeastTotal, LeastWorst, Problem
from workbench.allocate.raised import raised
from workbench.allocate.unreachable import Unreachable, explain

LEAST_MEMORY = 2**20  # bytes; below it there is no room for a search at all


@dataclass(frozen=True)
class Exact:
    """Proven best, or the best plan found within the limits together with a proven bound.

    Lagrangian bounds (Everett 1963) by dynamic programming over the coupling graph, or by message passing where that is
    too dense; enumeration of all plans below a rising target; branch and bound where that does not close the gap.
    Plans are the same on every run unless the time limit is met.

    Parameters
    ----------
    time_limit_s : seconds after which the best plan so far is returned with its gap
    memory_limit_bytes : what the solver's own tables may take

    Examples
    --------
    >>> from workbench.allocate import Choice, Term, solve
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> solve(Problem((widths,), (macs,)), Exact(time_limit_s=1.0)).proven
    True
    """

    time_limit_s: float = 10.0
    memory_limit_bytes: int = 2**30

    def __post_init__(self) -> None:
        if not self.time_limit_s > 0:
            raise ValueError(f"the time limit is {self.time_limit_s} s; give a number of seconds above 0")
        if self.memory_limit_bytes < LEAST_MEMORY:
            raise ValueError(f"the memory limit is {self.memory_limit_bytes} bytes; give at least {LEAST_MEMORY}")

    def solve(self, problem: Problem) -> Allocation:
        """The best plan; see :func:`workbench.allocate.solve`."""
        if isinstance(problem.objective, LeastWorst):
            return self._least_worst(problem)
        model = _Model.of(problem)
        solution = _core.solve(model.sizes, model.objective, model.constraints, *self._limits())
        return self._allocation(problem, solution)

    def front(self, problem: Problem, resource: str, budgets: Sequence[float]) -> list[Allocation]:
        """The best plan for each budget; see :func:`workbench.allocate.front`."""
        problems = [with_budget(problem, resource, budget) for budget in budgets]
        model = _Model.of(problem)
        if isinstance(problem.objective, LeastWorst) or resource not in model.names:
            return [self.solve(each) for each in problems]
        constraint = model.names.index(resource)
        limits = [float(each.resource(resource).limit) for each in problems]
        solutions = _core.sweep(model.sizes, model.objective, model.constraints, constraint, limits, *self._limits())
        return [self._allocation(each, solution) for each, solution in zip(problems, solutions, strict=True)]

    def _limits(self) -> tuple[float, int]:
        return self.time_limit_s, self.memory_limit_bytes

    def _allocation(self, problem: Problem, solution: _core.Solution) -> Allocation:
        if not solution.best and solution.bound < np.inf:
            raise self._out_of_time()
        # The cheapest plan of all may still be above its own resource's budget.
        if not solution.best or not within_budgets(problem, solution.best):
            raise Unreachable(explain(problem, self._cheapest))
        return Allocation.of(problem, raised(problem, solution.best), solution.bound)

    def _out_of_time(self) -> TimeoutError:
        return TimeoutError(
            f"no plan within the budgets was found in {self.time_limit_s} s, and none is proven impossible; "
            "raise the time limit or a budget"
        )

    def _cheapest(self, problem: Problem) -> Sequence[int] | None:
        """The option numbers of the best plan, or None where there is none."""
        model = _Model.of(problem)
        return _core.solve(model.sizes, model.objective, model.constraints, *self._limits()).best or None

    def _least_worst(self, problem: Problem) -> Allocation:
        """Bisect the least ceiling on the degradations under which a plan exists, then minimise their sum under it."""
        end = time.monotonic() + self.time_limit_s
        ceilings = sorted({d for choice in problem.choices for d in choice.degradation})
        low = ceilings.index(max(min(choice.degradation) for choice in problem.choices))  # none below is possible
        high = len(ceilings)  # from here on a plan is known
        best: _core.Solution | None = None
        while low < high:
            middle = (low + high) // 2
            solution = self._under(problem, ceilings[middle], end)
            if solution.best:
                best, high = solution, middle
            elif solution.bound == np.inf:
                low = middle + 1
            else:
                break
        if best is None:
            raise Unreachable(explain(problem, self._cheapest)) if low == high else self._out_of_time()
        picked = raised(problem, _positions(problem, ceilings[high], best.best))
        allocation = Allocation.of(problem, picked, ceilings[low])
        total_proven = best.value - best.bound <= PROVEN_GAP * best.value
        return replace(allocation, proven=low == high and total_proven)

    def _under(self, problem: Problem, ceiling: float, end: float) -> _core.Solution:
        """The least total when no degradation may be above ``ceiling``."""
        kept = {i: _allowed(choice.degradation, ceiling) for i, choice in enumerate(problem.choices)}
        model = _Model.of(replace(take_options(problem, kept), objective=LeastTotal()))
        seconds = max(0.0, end - time.monotonic())
        return _core.solve(model.sizes, model.objective, model.constraints, seconds, self.memory_limit_bytes)


def with_budget(problem: Problem, resource: str, budget: float) -> Problem:
    """The problem with another budget for one resource."""
    if resource not in (r.name for r in problem.resources):
        raise ValueError(f"there is no resource {resource!r}; choose one of {[r.name for r in problem.resources]}")
    resources = tuple(replace(r, budget=budget) if r.name == resource else r for r in problem.resources)
    return replace(problem, resources=resources)


def _allowed(degradation: Sequence[float], ceiling: float) -> list[int]:
    return [position for position, d in enumerate(degradation) if d <= ceiling]


def _positions(problem: Problem, ceiling: float, picked: Sequence[int]) -> list[int]:
    """The option numbers in ``problem`` of a plan for it under a ceiling."""
    return [_allowed(c.degradation, ceiling)[p] for c, p in zip(problem.choices, picked, strict=True)]


@dataclass(frozen=True)
class _Model:
    """A problem as the core takes it; ``names`` are those of the constraints."""

    sizes: list[int]
    objective: _core.Functional
    constraints: list[_core.Functional]
    names: list[str]

    @classmethod
    def of(cls, problem: Problem) -> _Model:
        wanted = problem.objective
        # What is minimised needs no constraint of its own: its least value is within the budget or nothing is.
        held = [r for r in problem.resources if not isinstance(wanted, Cheapest) or r.name != wanted.resource]
        constraints = [_functional(resource, resource.limit) for resource in held]
        objective = _degradation(problem)
        if isinstance(wanted, Cheapest):
            objective = _functional(problem.resource(wanted.resource))
            constraints.append(_degradation(problem, degradation_limit(wanted)))
        sizes = [len(choice.options) for choice in problem.choices]
        return cls(sizes, objective, constraints, [resource.name for resource in held])


def _functional(resource: Resource, limit: float = np.inf) -> _core.Functional:
    terms = [(term.choices, term.costs.astype(np.float64)) for term in resource.terms]
    return _core.Functional(terms, float(resource.constant), limit)


def _degradation(problem: Problem, limit: float = np.inf) -> _core.Functional:
    return _core.Functional([((i,), np.array(c.degradation)) for i, c in enumerate(problem.choices)], 0.0, limit)
