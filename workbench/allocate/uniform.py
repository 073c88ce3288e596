"""The simplest baseline: the same kept share everywhere."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

from workbench.allocate.allocation import Allocation
from workbench.allocate.baseline import fit
from workbench.allocate.pieces import Choice
from workbench.allocate.problem import Problem


@dataclass(frozen=True)
class Uniform:
    """Every choice keeps the same share of its largest option, the largest share that fits the budgets.

    Each takes its largest option that is not above the share, or its smallest. Costs must not rise when options get
    smaller. Proves nothing.

    Examples
    --------
    >>> from workbench.allocate import Choice, Resource, Term, solve
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> solve(Problem((widths,), (macs,)), Uniform()).options
    {'conv1': 16}
    """

    def solve(self, problem: Problem) -> Allocation:
        """The plan at the largest share that fits; see :func:`workbench.allocate.solve`."""
        shares = {Fraction(option, c.options[-1]) for c in problem.choices for option in c.options}
        mildest_first = sorted(shares, reverse=True)
        return fit(problem, mildest_first, lambda share: [_at_most(choice, share) for choice in problem.choices])


def _at_most(choice: Choice, share: Fraction) -> int:
    return max(0, bisect_right(choice.options, share * choice.options[-1]) - 1)
