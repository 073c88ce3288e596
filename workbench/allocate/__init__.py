"""Allocation: which width or rank each layer gets under a budget, with a proof of how good the plan is."""

from workbench.allocate.allocation import Allocation
from workbench.allocate.edit import at_least, forbid, pin, tie
from workbench.allocate.exact import Exact
from workbench.allocate.greedy import Greedy
from workbench.allocate.pieces import Choice, Resource, Term
from workbench.allocate.problem import Cheapest, LeastTotal, LeastWorst, Problem
from workbench.allocate.rounding import multiples, round_ranks, round_width
from workbench.allocate.solve import Solver, front, solve
from workbench.allocate.twin import Twin
from workbench.allocate.uniform import Uniform
from workbench.allocate.unreachable import Unreachable

__all__ = [
    "Allocation",
    "Cheapest",
    "Choice",
    "Exact",
    "Greedy",
    "LeastTotal",
    "LeastWorst",
    "Problem",
    "Resource",
    "Solver",
    "Term",
    "Twin",
    "Uniform",
    "Unreachable",
    "at_least",
    "forbid",
    "front",
    "multiples",
    "pin",
    "round_ranks",
    "round_width",
    "solve",
    "tie",
]
