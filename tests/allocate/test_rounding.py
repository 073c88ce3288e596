"""Widths and ranks in multiples: every case in integers, C++ and twin alike."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.allocate import Unreachable, multiples, round_ranks, round_width, rounding_twin
from workbench.allocate.rounding import MODES, Mode

TENTHS = [Fraction(k, 10) for k in range(1, 10)]


@pytest.mark.parametrize(
    ("units", "multiple", "minimum", "expected"),
    [
        (8, 1, 1, (1, 2, 3, 4, 5, 6, 7, 8)),
        (24, 8, 1, (8, 16, 24)),
        (20, 8, 1, (8, 16, 20)),
        (20, 8, 9, (16, 20)),
        (20, 8, 20, (20,)),
        (5, 8, 1, (5,)),
        (16, 16, 1, (16,)),
    ],
)
def test_multiples(units: int, multiple: int, minimum: int, expected: tuple[int, ...]) -> None:
    assert multiples(units, multiple, minimum) == expected


def test_every_width_multiple_and_ratio() -> None:
    """AIMET's defect: 24 channels at .3 in multiples of 8 kept 7."""
    for units in range(8, 513):
        for multiple in range(1, 65):
            smallest = min(multiple, units)
            for ratio in range(1, 10):
                wanted = units * ratio  # tenths
                up = round_width(units, ratio / 10, multiple, "up")
                down = round_width(units, ratio / 10, multiple, "down")
                assert up == min(-(-wanted // (10 * multiple)) * multiple, units)
                assert down == max(wanted // 10 // multiple * multiple, smallest)


@pytest.mark.parametrize("mode", list(MODES))
def test_width_agrees_with_the_twin(mode: Mode) -> None:
    for units in (*range(1, 40), 56, 72, 144, 192, 224, 384, 512):
        for multiple in (1, 2, 3, 4, 7, 8, 16, 32, 64, 100):
            for ratio in (Fraction(0), *TENTHS, Fraction(1, 3), Fraction(1)):
                expected = rounding_twin.round_width(units, ratio, multiple, mode)
                assert round_width(units, ratio, multiple, mode) == expected, (units, multiple, ratio)


def test_a_float_counts_as_it_is_written() -> None:
    assert round_width(10, 0.1, 1, "up") == 1  # 0.1 is a little above a tenth, which must not cost a channel
    assert round_width(24, 0.3, 8, "up") == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((24, 1.5, 8, "up"), "0 .. 1"),
        ((24, -0.5, 8, "up"), "0 .. 1"),
        ((0, 0.5, 8, "up"), "1 or more"),
        ((24, 0.5, 0, "up"), "1 or more"),
        ((24, 0.5, 8, "sideways"), "choose one of"),
        ((24, float("nan"), 8, "up"), "nan"),
    ],
)
def test_width_refuses(arguments: tuple[int, float, int, Mode], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        round_width(*arguments)


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[float], list[int], int, int, list[int]]:
    count = draw(st.integers(1, 6))
    highest = draw(st.lists(st.integers(1, 70), min_size=count, max_size=count))
    costs = draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    ranks = [draw(st.floats(0, 1.2)) * most for most in highest]
    whole = sum(cost * most for cost, most in zip(costs, highest, strict=True))
    return ranks, costs, draw(st.integers(0, whole + 1)), draw(st.sampled_from([1, 2, 4, 8, 16])), highest


@settings(max_examples=1000, deadline=None)
@given(layers())
def test_ranks_fill_the_budget_and_agree_with_the_twin(
    case: tuple[list[float], list[int], int, int, list[int]],
) -> None:
    _, costs, budget, _, highest = case
    expected = rounding_twin.round_ranks(*case)
    if not expected:
        with pytest.raises(Unreachable, match="the smallest ranks"):
            round_ranks(*case)
        return
    rounded = round_ranks(*case)
    assert rounded == expected
    left = budget - sum(cost * rank for cost, rank in zip(costs, rounded, strict=True))
    assert left >= 0
    for rank, cost, most in zip(rounded, costs, highest, strict=True):
        allowed = multiples(most, case[3])
        assert rank in allowed
        assert rank == most or cost * (allowed[allowed.index(rank) + 1] - rank) > left


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "given",
    [
        ([NAN], [1], 5, 1, [3]), ([INF], [1], 5, 1, [3]), ([-1.0], [1], 5, 1, [3]), ([1.0], [-1], 5, 1, [3]),
        ([1.0], [1], -5, 1, [3]), ([1.0], [1], 5, 0, [3]), ([1.0], [1], 5, 1, [0]), ([1.0], [2**63], 5, 1, [3]),
        (["a"], [1], 5, 1, [3]), ([1.0], [1.5], 5, 1, [3]), ([1.0], [1], 5, 1, []),
    ],
    ids=repr,
)  # fmt: skip
def test_ranks_that_are_none(given: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, TypeError)):
        round_ranks(*given)


def test_huge_and_no_ranks() -> None:
    assert round_ranks([1e300], [1], 5, 2**40, [3]) == [3]
    assert round_ranks([], [], 5, 1, []) == []


def test_ranks_refuse() -> None:
    with pytest.raises(ValueError, match="give as many of each"):
        round_ranks([1.0], [1, 2], 5, 1, [3])
    with pytest.raises(ValueError, match=r"2\*\*53"):
        round_ranks([1.0], [2**52], 5, 1, [3])
