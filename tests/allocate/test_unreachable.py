"""A budget that no plan meets: how low the cost can go, and which layers hold it there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.allocate import (
    Cheapest,
    Choice,
    Exact,
    Greedy,
    LeastWorst,
    Problem,
    Resource,
    Solver,
    Term,
    Twin,
    Uniform,
    Unreachable,
    front,
    solve,
)

A, B = Choice("a", (1, 2), (0.5, 0.0)), Choice("b", (1, 2), (0.5, 0.0))
MACS = Resource(
    "macs", (Term("small", (0,), np.array([3, 9])), Term("large", (0, 1), np.array([[20, 30], [40, 50]]))), 7, 29
)
SOLVERS: list[Solver] = [Exact(), Twin(), Greedy(), Uniform()]
NAMES = ["exact", "twin", "greedy", "uniform"]


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_one_budget(solver: Solver) -> None:
    with pytest.raises(Unreachable) as caught:
        solve(Problem((A, B), (MACS,)), solver)
    assert str(caught.value) == (
        "the budget of 29 macs is out of reach: the smallest reachable cost is 30 (0.455 of the original), held there "
        "by large (20), what no choice changes (7), small (3); raise the budget or offer smaller options"
    )


@pytest.mark.parametrize("objective", [LeastWorst(), Cheapest("macs", 1.0)], ids=["least worst", "cheapest"])
def test_other_objectives(objective: LeastWorst | Cheapest) -> None:
    with pytest.raises(Unreachable, match="smallest reachable cost is 30"):
        solve(Problem((A, B), (MACS,), objective))


def test_reachable_by_one() -> None:
    assert solve(Problem((A, B), (replace(MACS, budget=30),))).costs == {"macs": 30}


def test_two_budgets_that_cannot_hold_together() -> None:
    first = Resource("first", (Term("x", (0,), np.array([1, 5])),), 0, 2)
    second = Resource("second", (Term("y", (0,), np.array([5, 1])),), 0, 2)
    with pytest.raises(Unreachable) as caught:
        solve(Problem((A,), (first, second)))
    assert str(caught.value) == (
        "the budgets of first and second cannot be met together: with the others kept the smallest reachable cost in "
        "first is 5 (1.000 of the original), where 2 is allowed, held there by x (5); raise one of the budgets"
    )


def test_a_degradation_that_cannot_be_kept() -> None:
    with pytest.raises(Unreachable, match=r"the total degradation of at most 0\.1 is out of reach.* the least is 0\.5"):
        solve(Problem((A, B), (replace(MACS, budget=46),), Cheapest("macs", 0.1)))


def test_front_names_the_budget() -> None:
    with pytest.raises(Unreachable, match="the budget of 20 macs"):
        front(Problem((A, B), (MACS,)), "macs", [40, 20])


def test_front_of_an_unknown_resource() -> None:
    with pytest.raises(ValueError, match=r"no resource 'ms'; choose one of \['macs'\]"):
        front(Problem((A, B), (MACS,)), "ms", [40])


def test_a_resource_that_costs_nothing_has_no_share() -> None:
    free = Resource("free", (Term("x", (0,), np.array([2, 0])), Term("y", (1,), np.array([2, 0]))), 0, -1)
    with pytest.raises(Unreachable, match="the smallest reachable cost is 0, held"):
        solve(Problem((A, B), (free,)))
