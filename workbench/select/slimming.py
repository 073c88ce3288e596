"""Network slimming: the channels that a BN scales least leave first (Liu et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.select.magnitude import L2
from workbench.select.path import GroupView, Path
from workbench.select.ranking import Aggregate, ranked, total


@dataclass(frozen=True)
class Slimming:
    """Score of a unit: the absolute scale of its channels in each BN. Units without BN leave by ``L2``."""

    aggregate: Aggregate = total

    def __call__(self, view: GroupView) -> Path:
        scores = [
            torch.stack([scale[list(unit)].abs().sum() for unit in units]) for scale, units in view.batch_norm_scales()
        ]
        return ranked(view, self.aggregate(torch.stack(scores))) if scores else L2()(view)
