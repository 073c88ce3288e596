"""The inverse of an empirical Fisher information in blocks, and what the optimal brain surgeon does with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class FisherBlocks:
    """Inverses of ``damp * I + mean of g g^T`` for blocks of weights, ``[blocks, B, B]``, one gradient after the other.

    ``count`` is how many gradients there will be in all. Each is taken up by Woodbury's identity for rank one.
    """

    inverse: Tensor
    count: int

    @classmethod
    def empty(cls, blocks: int, size: int, count: int, damp: float, device: torch.device) -> FisherBlocks:
        """No gradient yet: ``I / damp``, in float64: it falls by many powers of ten where the gradients are."""
        return cls(torch.eye(size, dtype=torch.float64, device=device).div(damp).repeat(blocks, 1, 1), count)

    def add(self, gradient: Tensor) -> None:
        """Take up a gradient ``[blocks, B]``."""
        seen = (self.inverse @ gradient[..., None])[..., 0]
        scale = self.count + (gradient * seen).sum(1)
        self.inverse.baddbmm_(seen[:, :, None], -(seen / scale[:, None])[:, None, :])

    def saliency(self, weight: Tensor, unit: int) -> Tensor:
        """What the loss gains when units of so many weights that lie side by side leave, ``[blocks, units]``.

        ``w_Q^T ([F^-1]_QQ)^-1 w_Q / 2`` for each unit Q alone; ``weight`` is ``[blocks, B]``.
        """
        parts = weight.unflatten(1, (-1, unit))
        spread = self.inverse.unflatten(1, (-1, unit)).unflatten(3, (-1, unit))
        own = torch.diagonal(spread, dim1=1, dim2=3).movedim(-1, 1)
        return (parts * torch.linalg.solve(own, parts)).sum(-1) / 2

    def grown(self, change: Tensor) -> float:
        """By how much the quadratic model says that the loss grows, ``d^T F d / 2`` over all blocks."""
        return float((change * torch.linalg.solve(self.inverse, change)).sum()) / 2

    def update(self, weight: Tensor, kept: Tensor) -> Tensor:
        """The weights without those that leave, all of these at once: ``w - F^-1_:P (F^-1_PP)^-1 w_P``."""
        gone = ~kept
        system = self.inverse * gone[:, :, None] * gone[:, None, :]
        torch.diagonal(system, dim1=1, dim2=2).add_(kept.to(system))
        pulled = torch.linalg.solve(system, weight * gone)
        return (weight - (self.inverse @ pulled[..., None])[..., 0]).masked_fill(gone, 0)
