"""The problem as data: what it refuses, and that it survives JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings

from tests.allocate.cases import problems
from workbench.allocate import Allocation, Cheapest, Choice, Exact, LeastTotal, Problem, Resource, Term, solve

WIDTHS = Choice("conv1", (8, 16), (0.5, 0.0))
MACS = Resource("macs", (Term("conv1", (0,), np.array([10, 20])),), constant=0, budget=15)


def term(costs: object, choices: tuple[int, ...] = (0,)) -> Callable[[], object]:
    return lambda: Term("conv1", choices, np.array(costs))


REFUSED: list[tuple[str, Callable[[], object], str]] = [
    ("no options", lambda: Choice("a", (), ()), "has no options"),
    ("options not increasing", lambda: Choice("a", (8, 8), (0, 0)), "strictly increasing"),
    ("option 0", lambda: Choice("a", (0, 8), (0, 0)), ">= 1"),
    ("degradations too few", lambda: Choice("a", (8, 16), (0,)), "2 options and 1 degradations"),
    ("negative degradation", lambda: Choice("a", (8,), (-0.1,)), "-0.1"),
    ("NaN degradation", lambda: Choice("a", (8,), (float("nan"),)), "finite"),
    ("no choices", term([1, 2], ()), "one to three"),
    ("four choices", term(np.ones((1, 1, 1, 1)), (0, 1, 2, 3)), "one to three"),
    ("the same choice twice", term([[1, 2], [3, 4]], (0, 0)), "different"),
    ("costs of text", term(["a", "b"]), "int64 or float64"),
    ("costs of another rank", term([[1, 2]]), "shape (1, 2) for 1 choices"),
    ("empty costs", term(np.zeros(0)), "non-empty"),
    ("negative cost", term([-1, 2]), ">= 0"),
    ("infinite cost", term([1.0, np.inf]), "finite"),
    ("negative constant", lambda: Resource("r", (), -1, 5), "constant -1"),
    ("NaN budget", lambda: Resource("r", (), 0, float("nan")), "budget nan"),
    ("cost too large", lambda: Resource("r", MACS.terms, 2**53, 5), "2**53"),
    ("as many options as choices", lambda: Term.product("c", (0, 1), ((1, 2),), 3), "2 choices and 1 tuples"),
    ("negative limit", lambda: Cheapest("macs", -1), "at most -1"),
    ("problem without choices", lambda: Problem((), ()), "at least one"),
    ("name used twice", lambda: Problem((WIDTHS, WIDTHS), ()), "'conv1' is used more than once"),
    ("tied name used twice", lambda: Problem((Choice("a", (8,), (0,), ("a",)),), ()), "'a' is used"),
    ("resource name used twice", lambda: Problem((WIDTHS,), (MACS, MACS)), "'macs' is used"),
    ("unknown choice", lambda: Problem((WIDTHS,), (Resource("r", (Term("c", (1,), [1]),), 0, 1),)), "0 .. 0"),
    ("costs do not fit", lambda: Problem((WIDTHS,), (Resource("r", (Term("c", (0,), [1]),), 0, 1),)), "(2,) options"),
    ("unknown resource", lambda: Problem((WIDTHS,), (MACS,), Cheapest("ms", 1)), "choose one of ['macs']"),
    ("unknown objective", lambda: Problem.from_dict({**PLAIN, "objective": {"kind": "Best"}}), "choose one of"),
    ("no time", lambda: Exact(time_limit_s=0), "above 0"),
    ("no memory", lambda: Exact(memory_limit_bytes=100), "at least"),
]
PLAIN = Problem((WIDTHS,), (MACS,)).to_dict()


@pytest.mark.parametrize(("make", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refuses_in_one_sentence(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_problem_survives_json(problem: Problem) -> None:
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem


def test_allocation_survives_json() -> None:
    allocation = solve(Problem((WIDTHS,), (MACS,)))
    assert Allocation.from_dict(json.loads(json.dumps(allocation.to_dict()))) == allocation


def test_costs_are_copied_and_read_only() -> None:
    given_costs = np.array([10, 20])
    made = Term("conv1", (0,), given_costs)
    given_costs[0] = 99
    assert made.costs[0] == 10
    with pytest.raises(ValueError, match="read-only"):
        made.costs[0] = 1


def test_frozen_and_default_objective() -> None:
    problem = Problem((WIDTHS,), (MACS,))
    assert problem.objective == LeastTotal()
    with pytest.raises(FrozenInstanceError):
        problem.choices = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("choices", "options", "expected"),
    [
        ((0,), [(1, 2)], [3, 6]),
        ((0, 1), [(1, 2), (4, 8)], [[12, 24], [24, 48]]),
        ((1, 1), [(4, 8), (4, 8)], [48, 192]),
        ((0, 1, 0), [(1, 2), (4, 8), (1, 2)], [[12, 24], [48, 96]]),
        ((), [], None),
    ],
    ids=["one", "two", "the same twice", "around the same", "none"],
)
def test_product(choices: tuple[int, ...], options: list[tuple[int, ...]], expected: list[object] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="one to three"):
            Term.product("conv", choices, options, 3)
        return
    product = Term.product("conv", choices, options, 3)
    assert product.costs.tolist() == expected
    assert product.costs.dtype == np.int64
