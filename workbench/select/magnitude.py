"""Magnitude: units with the smallest weights leave first (Li et al. 2017)."""

from __future__ import annotations

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
        return ranked(view, self.aggregate(_sums(view, torch.abs)))


@dataclass(frozen=True)
class L2:
    """Score of a unit: the sum of the squared weights that make it, in each layer that does."""

    aggregate: Aggregate = total

    def __call__(self, view: GroupView) -> Path:
        return ranked(view, self.aggregate(_sums(view, torch.square)))


def _sums(view: GroupView, element: Aggregate) -> Tensor:
    """The elements' scores added up over the units, ``[members, units]``."""
    return torch.stack(
        [torch.stack([element(rows[list(unit)]).sum() for unit in units]) for rows, units in view.makers()]
        or [torch.zeros(view.group.units, dtype=torch.float64)]
    )
