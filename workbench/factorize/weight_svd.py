"""Weight SVD: k x k to few channels, then 1 x 1 (or the other way round); two linear layers of a linear one.

With the kernel first the least error of the output has a closed form. With ``W [o, p]`` and the metric ``G = L L^T``,
let ``W L = U S V^T``: the best weight of rank r is ``U_r U_r^T W``, and its error the sum of the squares of the
singular values left out (Eckart & Young 1936, in the metric of the inputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from workbench.factorize import bilinear
from workbench.factorize.shape import DEPTHWISE, NO_KERNEL, Shape, Stage


@dataclass(frozen=True)
class WeightSVD:
    """``point_first`` puts the 1 x 1 convolution first: cheaper where a layer has far more inputs than outputs.

    Examples
    --------
    >>> [factor.shape[1:] for factor in WeightSVD().factors(torch.randn(1, 8, 4, 3, 3).double(), 2)]
    [torch.Size([2, 4, 3, 3]), torch.Size([8, 2, 1, 1])]
    """

    point_first: bool = False

    @property
    def name(self) -> str:
        """As a plan spells it."""
        return "weight_svd_point_first" if self.point_first else "weight_svd"

    def unfit(self, shape: Shape) -> str:
        """Why a layer of this shape cannot be factorised so; empty where it can."""
        if shape.depthwise:
            return DEPTHWISE
        return NO_KERNEL if self.point_first and prod(shape.kernel) < 2 else ""

    def full(self, shape: Shape) -> int:
        """The rank from which on any weight is met exactly."""
        size = prod(shape.kernel)
        if self.point_first:
            return min(shape.inputs, shape.outputs * size)
        return min(shape.inputs * size, shape.outputs)

    def stages(self, shape: Shape, rank: int) -> tuple[Stage, ...]:
        """What the layer becomes."""
        point, kernel = (False,) * len(shape.kernel), (True,) * len(shape.kernel)
        first, last = (point, kernel) if self.point_first else (kernel, point)
        return Stage(None, rank, first), Stage(rank, None, last)

    def factors(
        self, weight: Tensor, rank: int, metric: Tensor | None = None, steps: int = bilinear.STEPS
    ) -> tuple[Tensor, ...]:
        """The weights of both stages."""
        if self.point_first:
            into, out = bilinear.fit(weight.flatten(3), rank, metric, steps)
            ones = (1,) * (weight.ndim - 3)
            return into.reshape(*into.shape, *ones), out.reshape(*out.shape[:3], *weight.shape[3:])
        left, _ = _decomposed(weight, metric)
        basis = left[..., :rank]
        first = basis.mT @ weight.flatten(2)
        return first.reshape(len(weight), -1, *weight.shape[2:]), basis[(..., *[None] * (weight.ndim - 3))]

    def errors(self, weight: Tensor, metric: Tensor, most: int, through: Tensor | None = None) -> Tensor:
        """The errors to expect at ranks 1 to ``most``."""
        if self.point_first:
            return bilinear.errors(weight.flatten(3), metric, most, through)
        left, squares = _decomposed(weight, metric)
        columns = [squares]
        if through is not None:
            columns.append(squares * (left.mT @ through).square().sum(-1))
        lost = torch.stack([_beyond(column.sum(0), most) for column in columns], -1)
        return lost[:, 0] if through is None else lost


def _decomposed(weight: Tensor, metric: Tensor | None) -> tuple[Tensor, Tensor]:
    """The left singular vectors ``[groups, outputs, n]`` in the metric, and the squares of the singular values."""
    flat = weight.flatten(2)
    values, vectors = torch.linalg.eigh((flat if metric is None else flat @ metric) @ flat.mT)
    most = min(flat.shape[1:])
    return vectors.flip(2)[..., :most], values.flip(1)[:, :most].clamp_min(0)


def _beyond(values: Tensor, most: int) -> Tensor:
    """The sums of what follows the first 1, 2, ... ``most``; nothing does behind the last."""
    sums = values.flip(0).cumsum(0).flip(0)[1:]
    return torch.cat([sums, sums.new_zeros(max(0, most - len(sums)))])[:most]
