"""Random selection: the baseline that every criterion has to beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

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
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(count, generator=generator, dtype=torch.float64)
