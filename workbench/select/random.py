"""Random selection: the baseline that every criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.draws import seed_of
from workbench.select.path import GroupView, Path
from workbench.select.ranking import ranked


@dataclass(frozen=True)
class Random:
    """Units leave in an order drawn from the seed and the group's name."""

    seed: int = 0

    def __call__(self, view: GroupView) -> Path:
        return ranked(view, drawn(f"{self.seed} {view.group.name}", view.group.units))


def drawn(key: str, count: int) -> Tensor:
    """Uniform numbers that follow from a text alone, float64 ``[count]``."""
    generator = torch.Generator().manual_seed(seed_of(key))
    return torch.rand(count, generator=generator, dtype=torch.float64)
