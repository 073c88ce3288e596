"""Tucker-2: 1 x 1 to few channels, k x k between few channels, 1 x 1 out of them (Kim et al. 2016).

One number stands for both ranks, of the inputs and of the outputs; each is at most its full one. For fixed input
directions both other factors have a closed form (reduced-rank regression).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from workbench.factorize import bilinear
from workbench.factorize.shape import DEPTHWISE, NO_KERNEL, Shape, Stage

RANKS = 24  # at which the errors of a wide layer are told


@dataclass(frozen=True)
class Tucker:
    """Both channel modes of a convolution of low rank.

    Examples
    --------
    >>> [factor.shape[1:] for factor in Tucker().factors(torch.randn(1, 8, 4, 3, 3).double(), 4)]
    [torch.Size([4, 4, 1, 1]), torch.Size([4, 4, 3, 3]), torch.Size([8, 4, 1, 1])]
    """

    @property
    def name(self) -> str:
        """As a plan spells it."""
        return "tucker"

    def unfit(self, shape: Shape) -> str:
        """Why a layer of this shape cannot be factorised so; empty where it can."""
        if shape.depthwise:
            return DEPTHWISE
        return NO_KERNEL if prod(shape.kernel) < 2 else ""

    def full(self, shape: Shape) -> int:
        """The rank from which on any weight is met exactly."""
        return max(_modes(shape))

    def ranks(self, shape: Shape, rank: int) -> tuple[int, int]:
        """Of the inputs and of the outputs."""
        into, out = _modes(shape)
        return min(rank, into), min(rank, out)

    def stages(self, shape: Shape, rank: int) -> tuple[Stage, ...]:
        """What the layer becomes."""
        into, out = self.ranks(shape, rank)
        point, kernel = (False,) * len(shape.kernel), (True,) * len(shape.kernel)
        return Stage(None, into, point), Stage(into, out, kernel), Stage(out, None, point)

    def factors(
        self, weight: Tensor, rank: int, metric: Tensor | None = None, steps: int = bilinear.STEPS
    ) -> tuple[Tensor, ...]:
        """The weights of the three stages."""
        kernel = weight.shape[3:]
        into, out = self.ranks(_shape(weight), rank)
        first, rest = bilinear.fit(weight.flatten(3), into, metric, steps, outputs=out)
        left = torch.linalg.svd(rest.flatten(2), full_matrices=False)[0][..., :out]
        core = (left.mT @ rest.flatten(2)).unflatten(2, (into, *kernel))
        ones = (None,) * len(kernel)
        return first[(..., *ones)], core, left[(..., *ones)]

    def errors(self, weight: Tensor, metric: Tensor, most: int, through: Tensor | None = None) -> Tensor:
        """The errors to expect at ranks 1 to ``most``: of wide layers at some, and on straight lines between."""
        shape, error = _shape(weight), bilinear.OutputError.of(weight.flatten(3), metric).quick()
        ranks = np.unique(np.linspace(1, most, min(most, RANKS)).round().astype(int))
        parts = error.explained(self.ranks(shape, most)[0])
        inputs = error.unexplained(parts, through)
        found = []
        for into, out in (self.ranks(shape, int(rank)) for rank in ranks):
            known = parts[:, :into].flatten(1, 2).double()  # [groups, r * j, outputs]
            values, vectors = torch.linalg.eigh(known.mT @ known)
            values, vectors = values[:, : shape.outputs - out], vectors[..., : shape.outputs - out]  # that are left out
            seen = [] if through is None else [(values * (vectors.mT @ through).square().sum(-1)).sum()]
            found.append(inputs[min(into, len(inputs)) - 1] + torch.stack([values.sum(), *seen]).clamp_min(0))
        columns = [np.interp(range(1, most + 1), ranks, column) for column in torch.stack(found, 1).numpy()]
        into, out = self.ranks(shape, (most + 1) // 2)
        told = torch.from_numpy(np.stack(columns, -1)) * replace(error, outputs=out).left(into)
        return told[:, 0] if through is None else told


def _shape(weight: Tensor) -> Shape:
    groups, outputs, inputs, *kernel = weight.shape
    return Shape(groups, outputs, inputs, tuple(kernel))


def _modes(shape: Shape) -> tuple[int, int]:
    """The full ranks of inputs and outputs."""
    size = prod(shape.kernel)
    return min(shape.inputs, shape.outputs * size), min(shape.outputs, shape.inputs * size)
