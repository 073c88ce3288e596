"""Second moments of a layer's rows: all that least squares, at any width, ever needs of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLUMNS, ROWS = 96, 256  # that are taken at a time


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
        """Gather rows ``[groups, n, p]`` and what they should give ``[groups, n, q]``; of half precision in float32."""
        rows, targets = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (rows, targets))
        # float32 products of one batch, summed in float64: no sum grows long enough to lose digits
        size = rows.shape[-1]
        for start in range(0, size, COLUMNS):  # half of a symmetric matrix is enough
            some = slice(start, min(start + COLUMNS, size))
            found = (rows[..., some].mT @ rows[..., start:]).double().cpu()
            self.xx[:, some, start:size] += found
            self.xx[:, some.stop : size, some] += found[..., some.stop - start :].mT
        self.xy[:, :size] += (rows.mT @ targets).double().cpu()
        sums = rows.sum(1).double().cpu()
        self.xx[:, size, :size] += sums
        self.xx[:, :size, size] += sums
        self.xx[:, size, size] += rows.shape[1]
        self.xy[:, size] += targets.sum(1).double().cpu()
        squares = [some.square().sum(1) for some in targets.split(ROWS, 1)]  # a few at a time stay in the cache
        self.yy += torch.stack(squares).sum(0).double().cpu()
        self.count += rows.shape[1]

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def of(self, columns: Sequence[int]) -> Moments:
        """Those of some columns alone."""
        places = torch.tensor([*columns, self.xx.shape[-1] - 1])
        return Moments(self.xx[:, places[:, None], places], self.xy[:, places], self.yy, self.count)

    def outputs(self, some: slice | Tensor) -> Moments:
        """Those of some outputs alone."""
        return Moments(self.xx, self.xy[..., some], self.yy[..., some], self.count)

    def error(self, solution: Tensor) -> float:
        """The squared error of ``[x, 1] @ solution`` over all rows; ``solution`` is ``[groups, p + 1, q]``."""
        fitted = (solution * (self.xx @ solution)).sum() - 2 * (solution * self.xy).sum() + self.yy.sum()
        return max(fitted.item(), 0.0)

    @property
    def finite(self) -> bool:
        """Whether no sum has overflowed."""
        return all(bool(sums.isfinite().all()) for sums in (self.xx, self.xy, self.yy))

    @property
    def energy(self) -> float:
        """The squared distance of the wanted outputs from their own mean, over all rows."""
        if not self.count:
            return 0.0
        return max((self.yy - self.xy[:, -1].square() / self.count).sum().item(), 0.0)
