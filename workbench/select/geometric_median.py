"""FPGM: the filters nearest to all others leave first, since the others can stand for them (He et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from workbench.select.path import GroupView, Path
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
        for rows, units in view.makers():
            widest = max(map(len, units))
            each = [rows[list(unit)].flatten() for unit in units]
            filters = torch.stack([F.pad(one, (0, widest * rows.shape[1] - len(one))) for one in each])
            scores.append(torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1))
        return ranked(view, self.aggregate(torch.stack(scores[1:] or scores)))
