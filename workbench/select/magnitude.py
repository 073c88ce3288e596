"""L2 magnitude: units with the smallest weights leave first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.select.path import GroupView, Path


@dataclass(frozen=True)
class L2:
    """Score of a unit: the root of the sum of squares of all weights that make it (Li et al. 2017, with the 2-norm)."""

    def __call__(self, view: GroupView) -> Path:
        squares = torch.zeros(view.group.units, dtype=torch.float64)
        for member in view.group.members:
            if member.role == "out":
                weight = view.tensors[member.tensor].double().cpu()
                rows = weight.movedim(member.dim, 0).flatten(1).square().sum(1) if weight.ndim > 1 else None
                if rows is not None:  # a bias is no measure of what a channel carries
                    squares += torch.stack([rows[list(unit)].sum() for unit in member.indices])
        present, order = torch.ones(view.group.units, dtype=torch.bool), []
        for unit in sorted(range(view.group.units), key=lambda unit: (squares[unit].item(), unit)):
            if view.may_leave(present)[unit]:
                present[unit] = False
                order.append(unit)
        stay = present.nonzero().flatten().tolist()
        return Path((*order, *stay), least=len(stay))
