"""The verb: solve a problem with a solver; and a whole front of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from workbench.allocate.allocation import Allocation
from workbench.allocate.exact import Exact
from workbench.allocate.problem import Problem

EXACT = Exact()


class Solver(Protocol):
    """Whatever turns a problem into a plan for it."""

    def solve(self, problem: Problem) -> Allocation:
        """The plan, or :class:`~workbench.allocate.allocation.Unreachable`."""
        ...


def solve(problem: Problem, solver: Solver = EXACT) -> Allocation:
    """The plan for ``problem`` by ``solver``; by default proven best.

    Raises
    ------
    Unreachable
        No plan meets the budgets; the message gives the smallest reachable cost and the layers that hold it there.

    Examples
    --------
    >>> from workbench.allocate import Choice, Resource, Term
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> solve(Problem((widths,), (macs,))).options
    {'conv1': 16}
    """
    return solver.solve(problem)


def front(problem: Problem, resource: str, budgets: Sequence[float], solver: Exact = EXACT) -> list[Allocation]:
    """The best plan for each of many budgets of one resource, in the order given.

    One sweep: what solving for one budget taught (multipliers, plans) is where the next starts. The solver's time limit
    holds for each budget.

    Raises
    ------
    ValueError
        There is no such resource.
    Unreachable
        A budget is out of reach.

    Examples
    --------
    >>> from workbench.allocate import Choice, Resource, Term
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> [plan.options["conv1"] for plan in front(Problem((widths,), (macs,)), "macs", [72, 200, 300])]
    [8, 16, 32]
    """
    return solver.front(problem, resource, budgets)
