"""Second moments of a layer's rows: all that least squares, at any width, ever needs of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over rows of ``[x, 1]`` with itself and with the wanted output ``y``, for each group of a layer.

    ``xx`` is float64 ``[groups, p + 1, p + 1]``, ``xy`` ``[groups, p + 1, q]``, ``yy`` the sum of y squared ``[groups,
    q]``, ``count`` the number of rows. The constant 1 stands last: its coefficient is the bias.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    count: int = 0

    @classmethod
    def empty(cls, groups: int, columns: int, outputs: int) -> Moments:
        """No rows yet."""
        xx, xy, yy = (
            torch.zeros(groups, *shape, dtype=torch.float64)
            for shape in ((columns + 1, columns + 1), (columns + 1, outputs), (outputs,))
        )
        return cls(xx, xy, yy)

    def add(self, rows: Tensor, targets: Tensor) -> None:
        """Gather rows ``[groups, n, p]`` and what they should give ``[groups, n, q]``."""
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
        # float32 products of one batch, summed in float64: no sum grows long enough to lose digits
        self.xx += (rows.mT @ rows).double().cpu()
        self.xy += (rows.mT @ targets).double().cpu()
        self.yy += targets.double().square().sum(1).cpu()
        self.count += rows.shape[1]

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def error(self, solution: Tensor) -> float:
        """The squared error of ``[x, 1] @ solution`` over all rows; ``solution`` is ``[groups, p + 1, q]``."""
        fitted = (solution * (self.xx @ solution)).sum() - 2 * (solution * self.xy).sum() + self.yy.sum()
        return max(fitted.item(), 0.0)

    @property
    def energy(self) -> float:
        """The squared distance of the wanted outputs from their own mean, over all rows."""
        if not self.count:
            return 0.0
        return max((self.yy - self.xy[:, -1].square() / self.count).sum().item(), 0.0)
