"""Adam in the eigenbasis of what each layer reads: a quasi-Newton step at the price of a few small products.

The curvature of a layer's squared output error in its weights is the second moment of its inputs (the input factor of
K-FAC, Martens & Grosse 2015). In that matrix's eigenbasis it is diagonal, and there Adam's own scaling by coordinate is
the right one (SOAP, Vyas et al. 2024, on one side).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.refine.bases import Bases

BETAS = 0.9, 0.99
LEAST = 1e-3  # root mean square of a parameter below which steps no longer shrink with it


@dataclass
class Moving:
    """One parameter with its running averages, in the eigenbases of what it is multiplied with."""

    parameter: nn.Parameter
    bases: Bases
    mean: Tensor
    square: Tensor

    @classmethod
    def of(cls, parameter: nn.Parameter, bases: Bases = ()) -> Moving:
        """At rest."""
        empty = torch.zeros_like(_matrix(parameter.detach(), bases))
        return cls(parameter, bases, empty, empty.clone())

    @torch.no_grad()
    def step(self, rate: float, number: int) -> None:
        """Move by about ``rate`` of the parameter's own size; ``number`` counts from 1."""
        if self.parameter.grad is None:
            return
        gradient = self._turned(_matrix(self.parameter.grad, self.bases), back=False)
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])
        corrected = self.square / (1 - BETAS[1] ** number)
        least = math.sqrt(torch.finfo(gradient.dtype).tiny)  # of gradients below it the squares are zero
        direction = self.mean / (1 - BETAS[0] ** number) / corrected.sqrt().clamp_min(least)
        size = max(self.parameter.square().mean().sqrt().item(), LEAST)
        self.parameter.sub_(rate * size * self._turned(direction, back=True).view_as(self.parameter))

    def _turned(self, matrix: Tensor, back: bool) -> Tensor:
        """Into the eigenbasis, or out of it."""
        if not self.bases:
            return matrix
        blocks = matrix.split([len(basis[0]) for basis in self.bases], -1)
        return torch.cat([b @ (v.mT if back else v) for b, v in zip(blocks, self.bases, strict=True)], -1)


def _matrix(tensor: Tensor, bases: Bases) -> Tensor:
    """A weight as ``[groups, out / groups, columns]``, where it has bases."""
    return tensor.flatten(1).unflatten(0, (len(bases[0]), -1)) if bases else tensor


class Quasi:
    """Steps for all parameters of a model; ``bases`` are those of the weights that have some."""

    def __init__(self, parameters: Iterable[nn.Parameter], bases: Mapping[nn.Parameter, Bases]):
        self.moving = [Moving.of(parameter, bases.get(parameter, ())) for parameter in parameters]
        self.steps = 0

    def step(self, rate: float) -> None:
        """One step of all parameters that have a gradient; the gradients are dropped."""
        self.steps += 1
        for moving in self.moving:
            moving.step(rate, self.steps)
            moving.parameter.grad = None
