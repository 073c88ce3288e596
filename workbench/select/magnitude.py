"""Magnitude: units with the smallest weights leave first (Li et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.select.path import GroupView, Path
from workbench.select.ranking import Aggregate, ranked, total


@dataclass(frozen=True)
class L1:
    """Score of a unit: the sum of the absolute weights that make it, in each layer that does."""

    aggregate: Aggregate = total

    def __call__(self, view: GroupView) -> Path:
        return ranked(view, self.aggregate(_sums(view, lambda weight: powers(weight, 1))))


@dataclass(frozen=True)
class L2:
    """Score of a unit: the sum of the squared weights that make it, in each layer that does."""

    aggregate: Aggregate = total

    def __call__(self, view: GroupView) -> Path:
        return ranked(view, self.aggregate(_sums(view, lambda weight: powers(weight, 2))))


def powers(weight: Tensor, p: float) -> Tensor:
    """Score of an element: ``|w|^p``. Summed over a unit it orders the units as their p-norm does."""
    return weight.abs() if p == 1 else weight.abs().pow(p)


def _sums(view: GroupView, element: Callable[[Tensor], Tensor]) -> Tensor:
    """The elements' scores added up over the units, ``[members, units]``."""
    return torch.stack(
        [torch.stack([element(rows[list(unit)]).sum() for unit in units]) for rows, units in view.makers()]
        or [torch.zeros(view.group.units, dtype=torch.float64)]
    )
