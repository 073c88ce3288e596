"""Pins, minimums, forbidden options and ties: the same plans as filtering all plans by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from workbench.allocate import Choice, Problem, Resource, Term, at_least, forbid, pin, solve, tie

A = Choice("a", (8, 16, 24), (3.0, 1.0, 0.0))
B = Choice("b", (8, 16, 32), (2.5, 1.5, 0.0))
C = Choice("c", (4, 8, 16), (4.0, 0.9, 0.0))
COSTS = np.random.default_rng(0).integers(1, 50, (3, 3, 3))
BUDGET = 100
TERMS = (Term("x", (0, 1, 2), COSTS), Term("y", (1, 0), COSTS[0]), Term("z", (2,), COSTS[0, 0]))
PROBLEM = Problem((A, B, C), (Resource("r", TERMS, 1, BUDGET),))


def best_by_hand(keep: object) -> float:
    """The least total degradation of the plans within the budget for which ``keep`` holds."""
    found = []
    for plan in itertools.product(range(3), repeat=3):
        options = {c.name: c.options[o] for c, o in zip(PROBLEM.choices, plan, strict=True)}
        if PROBLEM.resources[0].cost(plan) <= BUDGET and keep(options):  # type: ignore[operator]
            found.append(PROBLEM.degradation(plan))
    return min(found)


@pytest.mark.parametrize(
    ("edited", "keep"),
    [
        (PROBLEM, lambda o: True),
        (pin(PROBLEM, "a", 8), lambda o: o["a"] == 8),
        (at_least(PROBLEM, "b", 16), lambda o: o["b"] >= 16),
        (forbid(PROBLEM, "c", {16, 4}), lambda o: o["c"] == 8),
        (tie(PROBLEM, ["a", "b"]), lambda o: o["a"] == o["b"]),
        (tie(PROBLEM, ["b", "c"]), lambda o: o["b"] == o["c"]),
        (tie(PROBLEM, ["c", "a"]), lambda o: o["c"] == o["a"]),
        (tie(PROBLEM, ["a", "b", "c"]), lambda o: o["a"] == o["b"] == o["c"]),
        (forbid(tie(PROBLEM, ["a", "b"]), "b", {8}), lambda o: o["a"] == o["b"] != 8),
        (tie(tie(PROBLEM, ["a", "b"]), ["b", "c"]), lambda o: o["a"] == o["b"] == o["c"]),
    ],
    ids=[
        "none",
        "pin",
        "minimum",
        "forbid",
        "tie",
        "tie the last",
        "tie backwards",
        "tie three",
        "forbid in a tie",
        "tie twice",
    ],
)
def test_edited_problem_has_the_best_of_what_is_left(edited: Problem, keep: object) -> None:
    found = solve(edited)
    assert found.degradation == pytest.approx(best_by_hand(keep))
    assert keep(found.options)  # type: ignore[operator]
    assert set(found.options) == {"a", "b", "c"}


def test_the_original_stays() -> None:
    before = PROBLEM.to_dict()
    tie(pin(PROBLEM, "a", 8), ["a", "b"])
    assert PROBLEM.to_dict() == before


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda: pin(PROBLEM, "a", 9), "'a' has no option equal to 9; its options are (8, 16, 24)"),
        (lambda: at_least(PROBLEM, "b", 33), "no option >= 33"),
        (lambda: forbid(PROBLEM, "b", {8, 16, 32}), "no option outside [8, 16, 32]"),
        (lambda: pin(PROBLEM, "d", 8), "no choice 'd'; its choices are ['a', 'b', 'c']"),
        (lambda: tie(pin(PROBLEM, "a", 24), ["a", "b"]), "no option in common"),
    ],
)
def test_refusals(edit: object, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        edit()  # type: ignore[operator]
    assert words in str(caught.value)
