"""The least-squares elimination path: the unit whose loss costs least after repair leaves next.

One factorisation of the second moments gives the nested order for all widths. With ``H`` the inverse of the moments of
the columns still present and ``W`` the least-squares weights on them, losing the columns ``u`` of a unit raises the
squared output error by ``tr(W_u^T (H_uu)^-1 W_u)`` (the optimal brain surgeon for blocks); then ``W`` and ``H`` are
down-dated. The errors of all layers that read the group add up, each relative to the variance of its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.moments import Moments
from workbench.select.magnitude import L2
from workbench.select.path import GroupView, Path


@dataclass(frozen=True)
class Elimination:
    """Backward elimination of units by exact least-squares error. ``ridge`` is relative to the inputs' mean square.

    Where no convolution or linear layer reads a group there is no such error: its units leave by L2 magnitude.
    """

    ridge: float = 1e-4

    def __call__(self, view: GroupView) -> Path:
        problems = [
            problem
            for layer in view.consumers
            for problem in _problems(view.evidence[layer.name].all, view.columns(layer), self.ridge)
        ]
        if not problems:
            return L2()(view)
        present = torch.ones(view.group.units, dtype=torch.bool)
        order: list[int] = []
        errors = [0.0]
        while (free := view.may_leave(present)).any():
            losses = torch.stack([problem.losses() for problem in problems]).sum(0)
            losses[~free] = torch.inf
            unit = int(losses.argmin())
            for problem in problems:
                problem.remove(unit)
            present[unit] = False
            order.append(unit)
            errors.append(errors[-1] + losses[unit].item())
        stay = present.nonzero().flatten().tolist()
        return Path((*order, *stay), tuple(errors), least=len(stay))


def _problems(moments: Moments, columns: Sequence[tuple[int, ...]], ridge: float) -> list[_Problem]:
    """One elimination problem for each group of a layer: their units leave together, their errors add up."""
    scale = moments.energy or 1.0
    return [_Problem(xx, xy, columns, ridge, scale) for xx, xy in zip(moments.xx, moments.xy, strict=True)]


class _Problem:
    """The inverse moments and weights of one layer's group while units leave."""

    def __init__(self, xx: Tensor, xy: Tensor, columns: Sequence[tuple[int, ...]], ridge: float, scale: float):
        size, widest = len(xx), max(map(len, columns))
        squares = xx.diagonal()[:-1]
        strength = torch.full((size,), ridge * squares.mean().item() + torch.finfo(xx.dtype).tiny, dtype=xx.dtype)
        strength[:-1] += squares.eq(0)  # a dead input would make the moments singular
        strength[-1] = 0  # the bias
        inverse = torch.linalg.inv(xx + strength.diag())
        # units with fewer columns than the widest are filled up with columns that do nothing
        self.inverse = torch.block_diag(inverse, torch.eye(widest, dtype=xx.dtype))
        self.weight = torch.cat([inverse @ xy, torch.zeros(widest, xy.shape[1], dtype=xx.dtype)])
        filled = [[*unit, *range(size, size + widest - len(unit))] for unit in columns]
        self.columns = torch.tensor(filled)
        self.scale = scale
        self.gone = torch.zeros(len(columns), dtype=torch.bool)

    def losses(self) -> Tensor:
        """What the loss of each unit would add to the relative error, ``[units]``."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        blocks[self.gone] = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
        weights = self.weight[self.columns]
        return (weights * torch.linalg.solve(blocks, weights)).sum((1, 2)) / self.scale

    def remove(self, unit: int) -> None:
        """Down-date weights and inverse; the unit's columns become zero."""
        columns = self.columns[unit]
        columns = columns[columns < len(self.inverse) - self.columns.shape[1]]
        cross = self.inverse[:, columns]
        solved = torch.linalg.solve(cross[columns], torch.cat([self.weight[columns], cross.mT], 1))
        outputs = self.weight.shape[1]
        self.weight -= cross @ solved[:, :outputs]
        self.inverse -= cross @ solved[:, outputs:]
        self.weight[columns] = 0
        self.inverse[columns] = 0
        self.inverse[:, columns] = 0
        self.gone[unit] = True
