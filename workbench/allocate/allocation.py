"""The answer: which option each choice gets, what that costs and loses, and how good it provably is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.allocate.pieces import ROUNDING
from workbench.allocate.problem import Cheapest, LeastWorst, Problem

PROVEN_GAP = 1e-9  # relative; below it the difference is rounding


@dataclass(frozen=True)
class Allocation:
    """A plan for every choice.

    Parameters
    ----------
    options : the chosen width or rank by choice name, tied names included
    degradation : the sum of what the chosen options lose
    worst : the largest of them
    costs : the total cost by resource name
    bound : no plan within the budgets has a lower objective; None where the solver proves nothing
    gap : (objective - bound) / objective, 0 where the plan is proven to be best
    proven : the gap is at most 1e-9, so the plan is best
    """

    options: dict[str, int]
    degradation: float
    worst: float
    costs: dict[str, float]
    bound: float | None
    gap: float | None
    proven: bool

    def to_dict(self) -> dict[str, Any]:
        """The allocation as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Allocation:
        """The allocation that :meth:`to_dict` wrote."""
        return cls(**data)

    @classmethod
    def of(cls, problem: Problem, picked: Sequence[int], bound: float | None = None) -> Allocation:
        """The plan in which choice i takes its option number ``picked[i]``, with the solver's lower bound."""
        gap = None
        if bound is not None:
            reached = objective_value(problem, picked)
            gap = (reached - bound) / reached if reached > bound else 0.0
        return cls(
            options={name: c.options[o] for c, o in zip(problem.choices, picked, strict=True) for name in c.names},
            degradation=problem.degradation(picked),
            worst=problem.worst(picked),
            costs={resource.name: resource.cost(picked) for resource in problem.resources},
            bound=bound,
            gap=gap,
            proven=gap is not None and gap <= PROVEN_GAP,
        )


def objective_value(problem: Problem, picked: Sequence[int]) -> float:
    """What the problem's objective minimises, for the plan ``picked`` (option numbers)."""
    if isinstance(problem.objective, Cheapest):
        return problem.resource(problem.objective.resource).cost(picked)
    return problem.worst(picked) if isinstance(problem.objective, LeastWorst) else problem.degradation(picked)


def degradation_limit(objective: Cheapest) -> float:
    """The limit with room for rounding, so that a plan's own degradation can be asked for again."""
    return objective.total_degradation_at_most * (1 + ROUNDING)


def within_budgets(problem: Problem, picked: Sequence[int]) -> bool:
    """Whether the plan ``picked`` (option numbers) keeps every budget and the objective's own limit."""
    if isinstance(problem.objective, Cheapest) and problem.degradation(picked) > degradation_limit(problem.objective):
        return False
    return all(resource.cost(picked) <= resource.limit for resource in problem.resources)
