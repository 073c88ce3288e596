"""Descent of many small functions at once: L-BFGS (Liu & Nocedal 1989), each function with steps of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

MEMORY = 10  # steps that are remembered
TRIES = 6  # of a step's length
SHORTER = 0.4
ENOUGH = 1e-4  # of the gain that the slope promises
WINDOW = 5
STILL = 5e-5  # relative: a function that gains less in a window of steps is done

Function = Callable[[Tensor], tuple[Tensor, Tensor]]  # points [functions..., r, u] to values and gradients
Pairs = deque[tuple[Tensor, Tensor, Tensor]]  # a step, the change of the gradient, and 1 / their product


def descend(function: Function, points: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Points ``[functions..., r, u]`` from which no function gains much, and their values; no value rises.

    The functions should bend by about 2 in every direction at first: that is what the first step is made for.
    """
    values, gradients = function(points)
    pairs: Pairs = deque(maxlen=MEMORY)
    scale = torch.full_like(values, 0.5)  # of the inverse Hessian
    history = [values]
    moving = torch.ones_like(values, dtype=torch.bool)
    for _ in range(steps):
        directions = -_bent(gradients, pairs, scale) * moving[..., None, None]
        slopes = _product(directions, gradients)
        before = points, values, gradients
        points, values, gradients = _stepped(function, *before, directions, slopes)
        step, change = points - before[0], gradients - before[2]
        along, square = _product(step, change), _product(change, change)
        convex = along > 1e-12 * square
        pairs.append((step, change, torch.where(convex, 1 / along, 0.0)))
        scale = torch.where(convex, along / square, scale)
        history = [*history[-WINDOW:], values]
        moving &= values < before[1]
        if len(history) > WINDOW:
            moving &= history[0] - values > STILL * values
        if not moving.any():
            break
    return points, values


def _bent(gradients: Tensor, pairs: Pairs, scale: Tensor) -> Tensor:
    """The inverse Hessian that the remembered steps let guess, times the gradients."""
    found, weights = gradients, []
    for step, change, inverse in reversed(pairs):
        weights.append(inverse * _product(step, found))
        found = found - weights[-1][..., None, None] * change
    found = found * scale[..., None, None]
    for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        found = found + (weight - inverse * _product(change, found))[..., None, None] * step
    return found


def _stepped(
    function: Function, points: Tensor, values: Tensor, gradients: Tensor, directions: Tensor, slopes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps shortened until each function falls enough; where none does, its point stays."""
    lengths = torch.ones_like(values)
    for _ in range(TRIES):
        new = points + lengths[..., None, None] * directions
        fallen, turned = function(new)
        enough = fallen <= values + ENOUGH * lengths * slopes
        if enough.all():
            break
        lengths = torch.where(enough, lengths, SHORTER * lengths)
    lower = (fallen < values)[..., None, None]
    return torch.where(lower, new, points), fallen.minimum(values), torch.where(lower, turned, gradients)


def _product(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum((-2, -1))
