"""Descent of many functions at once: each as if it were alone, none ever higher than it was."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.factorize.descent import Function, descend

SHAPE = 6, 2, 5  # functions of 2 x 5 numbers


def valleys(stretch: float) -> tuple[Function, Tensor, Tensor]:
    """Quadratics, each more stretched than the one before, with a fourth power; where they are least; a start."""
    generator = torch.Generator().manual_seed(0)
    least, start = (torch.randn(SHAPE, generator=generator).double() for _ in range(2))
    bends = torch.stack([torch.logspace(0, -stretch * place / 5, 10) for place in range(6)]).view(SHAPE).double()

    def function(points: Tensor) -> tuple[Tensor, Tensor]:
        apart = points - least[: len(points)]
        bent = bends[: len(points)]
        return (bent * apart.square() + apart**4).sum((1, 2)) + 1, 2 * bent * apart + 4 * apart**3

    return function, least, start


def test_the_least_is_found() -> None:
    function, least, start = valleys(1)
    points, values = descend(function, start, 200)
    torch.testing.assert_close(values, torch.ones(6).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(points, least, atol=0.05, rtol=0)


def test_no_value_rises_and_steps_are_counted() -> None:
    function, _, start = valleys(4)
    assert descend(function, start, 0)[1].equal(function(start)[0])
    before = function(start)[0]
    for steps in range(1, 30):
        after = descend(function, start, steps)[1]
        assert (after <= before).all()
        before = after


def test_where_no_step_is_short_enough_the_point_stays() -> None:
    function, _, start = valleys(1)

    def steep(points: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = function(points)
        return 1e6 * values, 1e6 * gradients

    points, values = descend(steep, start, 5)
    assert torch.equal(points, start)
    assert torch.equal(values, steep(start)[0])


def test_a_function_does_not_notice_the_others() -> None:
    function, _, start = valleys(2)
    together, alone = descend(function, start, 15), descend(function, start[:2], 15)
    torch.testing.assert_close(together[0][:2], alone[0])
    assert torch.equal(function(together[0])[0], together[1])
