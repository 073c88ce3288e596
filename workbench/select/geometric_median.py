"""FPGM: the filters nearest to all others leave first, since the others can stand for them (He et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.select.path import GroupView, Path, by_unit
from workbench.select.ranking import Aggregate, mean, ranked


@dataclass(frozen=True)
class GeometricMedian:
    """Score of a unit: the sum of the Euclidean distances of its weights to those of all other units.

    Weights of different layers have different scales, so that layers are averaged, each scaled to a mean of one. The
    paper's first stage, by norm, is left out.
    """

    aggregate: Aggregate = mean

    def __call__(self, view: GroupView) -> Path:
        scores = [torch.zeros(view.group.units, dtype=torch.float64)]
        scores += [distances(by_unit(rows, units)) for rows, units in view.makers()]
        return ranked(view, self.aggregate(torch.stack(scores[1:] or scores)))


def distances(filters: Tensor) -> Tensor:
    """The sum of the Euclidean distances of each filter to all others, ``[..., filters, weights]`` to
    ``[..., filters]``."""
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(-1)
