"""Rounding of widths and ranks to the hardware's multiple, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from workbench import _core
from workbench.allocate.unreachable import Unreachable

Mode = Literal["down", "nearest", "up"]
MODES: dict[Mode, _core.Rounding] = {
    "down": _core.Rounding.DOWN,
    "nearest": _core.Rounding.NEAREST,
    "up": _core.Rounding.UP,
}


def multiples(units: int, multiple: int, minimum: int = 1) -> tuple[int, ...]:
    """The widths a group of ``units`` may have: multiples of ``multiple`` from ``minimum`` on, and ``units`` itself.

    Examples
    --------
    >>> multiples(20, 8)
    (8, 16, 20)
    """
    if units < 1 or multiple < 1:
        raise ValueError(f"units and multiple are {units} and {multiple}; both must be 1 or more")
    first = -(-max(minimum, 1) // multiple) * multiple
    return (*range(first, units, multiple), units)


def round_width(units: int, ratio: Fraction | float, multiple: int, mode: Mode = "down") -> int:
    """The width next to ``ratio * units`` among :func:`multiples`: below it, nearest to it, or above it.

    A float counts as the decimal fraction it is written as: 0.3 is three tenths, so that ten thirds of units do not
    become a fourth by rounding. Below the smallest multiple there is nothing, so that one is taken; "nearest" takes the
    larger of two that are equally near.

    Raises
    ------
    ValueError
        The ratio is not in 0 .. 1, units or multiple are below 1, or the mode is unknown.

    Examples
    --------
    >>> [round_width(24, 0.6, 8, mode) for mode in ("down", "nearest", "up")]
    [8, 16, 16]
    """
    if mode not in MODES:
        raise ValueError(f"the rounding mode is {mode!r}; choose one of {list(MODES)}")
    exact = ratio if isinstance(ratio, Fraction) else Fraction(repr(float(ratio)))
    return _core.round_width(units, exact.numerator, exact.denominator, multiple, MODES[mode])


def round_ranks(
    ranks: Sequence[float], costs: Sequence[int], budget: int, multiple: int, highest: Sequence[int]
) -> list[int]:
    """Real-valued ranks made multiples, never above the budget and never needlessly below it.

    Parameters
    ----------
    ranks : the rank each layer should have
    costs : what one rank of each layer costs
    budget : the sum of cost times rank may not be above it
    multiple : ranks are multiples of this, or their layer's highest
    highest : the largest rank each layer can have

    Returns
    -------
    list[int]
        No single one of them could be the next larger multiple within the budget. Layers furthest below their real rank
        are raised first.

    Raises
    ------
    ValueError
        The lengths differ, or a number is negative, not finite or too large.
    Unreachable
        Even the smallest ranks are above the budget.

    Examples
    --------
    >>> round_ranks([12.5, 30.0], costs=[10, 20], budget=800, multiple=8, highest=[32, 64])
    [16, 32]
    """
    rounded = _core.round_ranks(ranks, costs, budget, multiple, highest)
    if not rounded and ranks:
        smallest = [min(multiple, most) for most in highest]
        least = sum(cost * rank for cost, rank in zip(costs, smallest, strict=True))
        raise Unreachable(
            f"the budget of {budget} is out of reach: the smallest ranks {smallest} cost {least}; "
            "raise the budget or lower the multiple"
        )
    return rounded
