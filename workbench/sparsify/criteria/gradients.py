"""Criteria on the gradient of the loss: of one step, or gathered over steps.

The gradient is that of the weight as the forward uses it, at masked places too (see ``workbench.sparsify.masks``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.sparsify.criteria.base import Criterion, Reduce
from workbench.sparsify.view import WeightView


class _Gradient(Criterion):
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})


@dataclass(frozen=True)
class Gradient(_Gradient):
    """Score of an element: ``|g|``, by which RigL lets weights grow (Evci et al. 2020)."""

    def elements(self, view: WeightView) -> Tensor:
        return view.need("gradient").abs()


@dataclass(frozen=True)
class Snip(_Gradient):
    """Score of an element: ``|w g|`` (Lee et al. 2019)."""

    def elements(self, view: WeightView) -> Tensor:
        return (view.weight * view.need("gradient")).abs()


@dataclass(frozen=True)
class SnipMomentum(Snip):
    """``|w g|`` gathered at every step: ``S <- decay S + |w g|``."""

    decay: float = 0.9
    remembers: ClassVar[bool] = True
    lasts: ClassVar[bool] = True

    def remember(self, before: Tensor, now: Tensor) -> Tensor:
        return self.decay * before + now


@dataclass(frozen=True)
class Taylor(_Gradient):
    """A unit is worth ``(sum of g w)^2``, summed over its elements first, then over minibatches (Molchanov et al.
    2019)."""

    remembers: ClassVar[bool] = True

    def elements(self, view: WeightView) -> Tensor:
        return view.weight * view.need("gradient")

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        return cells.sum(-1).square()


@dataclass(frozen=True)
class Fisher(_Gradient):
    """A unit is worth ``w^2 g^2``, ``g^2`` summed over minibatches: what its loss adds to the loss by second order
    (optimal brain damage with the empirical Fisher information)."""

    remembers: ClassVar[bool] = True

    def elements(self, view: WeightView) -> Tensor:
        return (view.weight * view.need("gradient")).square()

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        return cells.sum(-1)


@dataclass(frozen=True)
class Movement(_Gradient):
    """Movement (Sanh et al. 2020): ``S <- S - rate g w``; weights that move to zero lose.

    Hard: with a scope that counts, the lowest S go. Soft: with ``Above(threshold)`` those go whose ``sigmoid(S)`` does
    not reach it, and ``penalty`` times the mean of ``sigmoid(S)`` is part of the loss that S descends.
    """

    rate: float = 1.0
    penalty: float = 0.0
    remembers: ClassVar[bool] = True
    lasts: ClassVar[bool] = True

    def elements(self, view: WeightView) -> Tensor:
        return -self.rate * view.need("gradient") * view.weight

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        return cells.sum(-1)

    def remember(self, before: Tensor, now: Tensor) -> Tensor:
        share = torch.sigmoid(before)
        return before + now - self.rate * self.penalty * share * (1 - share) / before.numel()

    def worth(self, known: Tensor) -> Tensor:
        return torch.sigmoid(known) if self.penalty else known
