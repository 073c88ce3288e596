"""AIMET's greedy: its own tests' table, its walk on curves that are not monotone, and its threshold."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.allocate import Choice, Greedy, Problem, Resource, Term, Uniform, solve
from workbench.allocate.greedy import walk

# AIMET's test_find_layer_comp_ratio_given_eval_score: scores by compression ratio; 1.0 is the untouched layer.
RATIOS = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
SCORES = [11, 23, 47, 85, 89, 100]


@pytest.mark.parametrize(("score", "ratio"), [(45, 0.5), (48, 0.7), (90, 1.0), (5, 0.1), (11, 0.1), (47, 0.5)], ids=str)
def test_aimets_table(score: float, ratio: float) -> None:
    assert RATIOS[walk([100 - s for s in SCORES], 100 - score)] == ratio


@pytest.mark.parametrize(
    ("scores", "score", "ratio"),
    [
        ([80, 90, 40, 85, 89, 100], 50, 0.7),  # stops before .5 although .1 and .3 are good again
        ([80, 90, 95, 85, 30, 100], 50, 1.0),  # the mildest ratio fails: the layer stays as it is
        ([60, 60, 60, 60, 60, 100], 60, 0.1),  # never *below* the score
    ],
)
def test_walk_is_not_the_cheapest_above(scores: list[float], score: float, ratio: float) -> None:
    assert RATIOS[walk([100 - s for s in scores], 100 - score)] == ratio


def two_layers(budget: int) -> Problem:
    """Two layers of cost 100 whose curves cross."""
    options = (10, 30, 50, 70, 90, 100)
    first = Choice("first", options, (89, 77, 53, 15, 11, 0))
    second = Choice("second", options, (60, 40, 30, 25, 20, 0))
    terms = tuple(Term(c.name, (i,), np.array(options)) for i, c in enumerate((first, second)))
    return Problem((first, second), (Resource("macs", terms, 0, budget),))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (200, {"first": 100, "second": 100}),
        (199, {"first": 90, "second": 100}),
        (170, {"first": 70, "second": 100}),
        (169, {"first": 70, "second": 90}),
        (100, {"first": 70, "second": 30}),
        (20, {"first": 10, "second": 10}),
    ],
)
def test_one_threshold_for_all(budget: int, expected: dict[str, int]) -> None:
    assert solve(two_layers(budget), Greedy()).options == expected


@pytest.mark.parametrize(("budget", "expected"), [(200, 100), (199, 90), (140, 70), (139, 50), (20, 10)])
def test_uniform_keeps_one_share(budget: int, expected: int) -> None:
    assert solve(two_layers(budget), Uniform()).options == {"first": expected, "second": expected}
