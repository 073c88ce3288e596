"""Methods that only choose: what is least worth by a criterion leaves, the rest stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.sparsify.amounts import Amount
from workbench.sparsify.criteria import Criterion, Magnitude
from workbench.sparsify.layerwise.choice import Choice
from workbench.sparsify.layerwise.problem import Problem, Solution
from workbench.sparsify.patterns import Pattern
from workbench.sparsify.view import WeightView


@dataclass(frozen=True)
class Scored:
    """``Scored(Wanda())`` with ``Elements(by_row=True)`` is Wanda as published, ``Scored()`` is magnitude.

    ``inputs`` of the criterion's view are those of the network pruned so far.
    """

    criterion: Criterion = Magnitude()

    def __post_init__(self) -> None:
        if self.criterion.needs - {"inputs"}:
            raise ValueError(
                f"{self.criterion} needs {', '.join(sorted(self.criterion.needs))}, and layer by layer there are "
                "inputs alone; use sparsify.prune with it"
            )

    def __call__(self, problem: Problem, pattern: Pattern, amount: Amount) -> Solution:
        weight, site = problem.weight, problem.site
        norms = problem.inputs.sqrt()[:, None].expand_as(weight).flatten(0, 1)
        worth = self.criterion.elements(WeightView(site, weight.flatten(0, 1), inputs=norms))
        choice = Choice(problem.name, pattern, amount, problem.gone.flatten(0, 1), self.criterion)
        return Solution.of(weight, choice.kept(worth, 0).view_as(weight))
