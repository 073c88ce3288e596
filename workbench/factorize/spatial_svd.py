"""Spatial SVD: a k_h x k_w convolution as k_h x 1 to few channels, then 1 x k_w (Jaderberg et al. 2014, scheme 2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workbench.factorize import bilinear
from workbench.factorize.shape import DEPTHWISE, Shape, Stage


@dataclass(frozen=True)
class SpatialSVD:
    """The first layer takes stride, padding and dilation of the first dimension, the second those of the second.

    Examples
    --------
    >>> import torch
    >>> [factor.shape[1:] for factor in SpatialSVD().factors(torch.randn(1, 8, 4, 3, 5).double(), 2)]
    [torch.Size([2, 4, 3, 1]), torch.Size([8, 2, 1, 5])]
    """

    @property
    def name(self) -> str:
        """As a plan spells it."""
        return "spatial_svd"

    def unfit(self, shape: Shape) -> str:
        """Why a layer of this shape cannot be factorised so; empty where it can."""
        if shape.depthwise:
            return DEPTHWISE
        if len(shape.kernel) != 2 or min(shape.kernel) < 2:
            kernel = " x ".join(map(str, shape.kernel)) or "no kernel"
            return f"it has {kernel}; only a kernel of two dimensions, each 2 or more, can be split"
        return ""

    def full(self, shape: Shape) -> int:
        """The rank from which on any weight is met exactly."""
        return min(shape.inputs * shape.kernel[0], shape.outputs * shape.kernel[1])

    def stages(self, shape: Shape, rank: int) -> tuple[Stage, ...]:
        """What the layer becomes."""
        return Stage(None, rank, (True, False)), Stage(rank, None, (False, True))

    def factors(
        self, weight: Tensor, rank: int, metric: Tensor | None = None, steps: int = bilinear.STEPS
    ) -> tuple[Tensor, ...]:
        """The weights of both stages."""
        high = weight.shape[3]
        into, out = bilinear.fit(weight.flatten(2, 3), rank, metric, steps)
        return into.unflatten(2, (-1, high))[..., None], out[..., None, :]

    def errors(self, weight: Tensor, metric: Tensor, most: int, through: Tensor | None = None) -> Tensor:
        """The errors to expect at ranks 1 to ``most``."""
        return bilinear.errors(weight.flatten(2, 3), metric, most, through)
