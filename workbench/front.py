"""The front: the best plan for each of many budgets, and what they cost and lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import drawing
from workbench.allocate import Allocation, Cheapest, Exact, Problem, front, solve
from workbench.allocate.budget import RESOURCES, Budget, Multiple
from workbench.allocate.exact import with_budget
from workbench.allocate.solve import EXACT
from workbench.cost.latency import LatencyTable
from workbench.graph.trace import ChannelGraph
from workbench.limits import Limits
from workbench.sensitivity import SensitivityCurves
from workbench.widths import width_problem

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.plan import Plan


@dataclass(frozen=True)
class Choosable:
    """All plans of a model under a budget of one resource, each solved for when it is asked for."""

    problem: Problem
    resource: str
    dense: float
    budget: Budget  # of which the share changes

    @classmethod
    def of(
        cls, graph: ChannelGraph, curves: SensitivityCurves, resource: str, multiple: Multiple = 1,
        limits: Limits = Limits(), latency: LatencyTable | None = None,
    ) -> Choosable:  # fmt: skip
        """With nothing lost, and the original's whole cost allowed."""
        if resource not in RESOURCES:
            raise ValueError(f"there is no cost called {resource!r}; choose from {', '.join(RESOURCES)}")
        budget = Budget(**{resource: 1.0}, multiple=multiple)
        problem = width_problem(graph, curves, budget, limits, latency)
        return cls(problem, resource, problem.resource(resource).budget, budget)

    @cached_property
    def least(self) -> float:
        """The smallest share that can be reached."""
        loosest = sum(max(choice.degradation) for choice in self.problem.choices)
        cheapest = solve(Problem(self.problem.choices, self.problem.resources, Cheapest(self.resource, loosest)))
        return cheapest.costs[self.resource] / self.dense

    def at(self, share: float) -> Allocation:
        """The best plan that costs at most this share of the original."""
        return Exact().solve(with_budget(self.problem, self.resource, self.limit(share)))

    def limit(self, share: float) -> float:
        """The most that is allowed by a share."""
        return self.asked(share).limit(self.resource, self.dense)

    def asked(self, share: float) -> Budget:
        """The budget of that share."""
        return Budget(**{self.resource: share}, multiple=self.budget.multiple)


@dataclass(frozen=True)
class Front:
    """The best plans for shares of one resource, from the least to the largest."""

    resource: str
    multiple: Multiple
    dense: float
    metric: str
    baseline: float
    units: Mapping[str, int]
    shares: tuple[float, ...]
    plans: tuple[Allocation, ...]

    @classmethod
    def of(
        cls, choosable: Choosable, curves: SensitivityCurves, budgets: int | Sequence[float], solver: Exact = EXACT
    ) -> Front:
        """In one sweep, for these shares, or for so many in equal steps from the least that can be reached to all.

        Raises
        ------
        Unreachable
            A share cannot be reached.
        ValueError
            The number is not 2 or more, or a share is not in (0, 1].
        """
        if isinstance(budgets, int):
            if budgets < 2:
                raise ValueError(f"a front of {budgets} budgets is none; give 2 or more, or the shares themselves")
            shares = tuple(np.linspace(choosable.least, 1.0, budgets).tolist())
        else:
            shares = tuple(sorted(budgets))
            if not shares:
                raise ValueError("a front of no budgets is none; give at least one share")
        plans = front(choosable.problem, choosable.resource, [*map(choosable.limit, shares)], solver)
        units = {curve.group: curve.units for curve in curves}
        return cls(
            choosable.resource, choosable.budget.multiple, choosable.dense, curves.metric, curves.baseline, units,
            shares, tuple(plans),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self.plans)

    def __repr__(self) -> str:
        losses = [plan.degradation for plan in self.plans]
        return (
            f"Front({len(self)} budgets of {self.resource}, {self.shares[0]:.3f} to {self.shares[-1]:.3f} of the "
            f"original: predicted loss {losses[0]:.4g} to {losses[-1]:.4g})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a budget: its share, the plan's cost as a share, what it is predicted to lose, and all widths."""
        import pandas as pd

        rows = [
            {"budget": share, "cost": plan.costs[self.resource] / self.dense, "loss": plan.degradation,
             "score": self.baseline - plan.degradation, **plan.options}
            for share, plan in zip(self.shares, self.plans, strict=True)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def to_dict(self, chosen: Plan | None = None) -> list[dict[str, Any]]:
        """One entry a budget, as the report takes it; with the plan that was chosen, where it has this cost."""
        budgets = ({self.resource: share, "multiple": self.multiple} for share in self.shares)
        plans = [
            _entry(budget, plan.options, plan.costs[self.resource] / self.dense, plan.degradation)
            for budget, plan in zip(budgets, self.plans, strict=True)
        ]
        if chosen is None or self.resource not in chosen.costs:
            return plans
        ratio = chosen.costs[self.resource] / self.dense
        own = _entry(chosen.budget.to_dict(), {**self.units, **dict(chosen.places)}, ratio, chosen.degradation)
        others = [plan for plan in plans if plan["options"] != own["options"]]
        return sorted([*others, own], key=lambda plan: plan["cost_ratio"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Predicted loss against cost. Returns the axes."""
        ax = drawing.axes(ax, 8, 4)
        costs = [plan.costs[self.resource] / self.dense for plan in self.plans]
        ax.plot(costs, [plan.degradation for plan in self.plans], ".-", color=drawing.AFTER)
        ax.set_xlabel(f"{self.resource}, share of the original")
        ax.set_ylabel(f"predicted loss of {self.metric}", parse_math=False)
        return ax

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_frame().to_html(index=False, float_format='{:.4f}'.format)}"


def _entry(budget: Mapping[str, Any], options: Mapping[str, int], ratio: float, degradation: float) -> dict[str, Any]:
    return {"budget": budget, "options": dict(options), "cost_ratio": ratio, "predicted_degradation": degradation}
