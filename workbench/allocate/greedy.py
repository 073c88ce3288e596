"""AIMET's greedy allocation, the baseline: one threshold on the score for all choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.allocate.allocation import Allocation
from workbench.allocate.baseline import fit
from workbench.allocate.problem import Problem


@dataclass(frozen=True)
class Greedy:
    """Every choice gives what it can before its degradation passes one common threshold.

    The rule of AIMET's channel pruning and SVD (and, where curves are monotone, of FastNAS, PaddleSlim and any global
    threshold): each choice walks down from its largest option and stops before the first that loses more than the
    threshold. The lowest threshold that fits the budgets is found among the degradations themselves; AIMET bisects to
    one part in 10,000 of their range. Where only the very end of a curve would do, AIMET leaves that layer whole, and
    this one takes the end. Costs must not rise when options get smaller. Proves nothing.

    Examples
    --------
    >>> from workbench.allocate import Choice, Resource, Term, solve
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> solve(Problem((widths,), (macs,)), Greedy()).options
    {'conv1': 16}
    """

    def solve(self, problem: Problem) -> Allocation:
        """The plan at the lowest threshold that fits; see :func:`workbench.allocate.solve`."""
        thresholds = sorted({d for choice in problem.choices for d in choice.degradation} | {0.0})
        return fit(problem, thresholds, lambda t: [walk(choice.degradation, t) for choice in problem.choices])


def walk(degradation: Sequence[float], threshold: float) -> int:
    """The last option, from the largest downwards, before the first whose degradation is above ``threshold``.

    Examples
    --------
    >>> walk([0.9, 0.2, 0.5, 0.1, 0.0], 0.3)  # the option that loses 0.2 lies behind one that loses 0.5
    3
    """
    option = len(degradation) - 1
    while option > 0 and degradation[option - 1] <= threshold:
        option -= 1
    return option
