"""Criteria on the weights alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.select.geometric_median import distances
from workbench.select.magnitude import powers
from workbench.select.random import drawn
from workbench.sparsify.criteria.base import Criterion, Reduce
from workbench.sparsify.view import WeightView


@dataclass(frozen=True)
class Magnitude(Criterion):
    """Score of an element: ``|w|^p`` (Han et al. 2015; Li et al. 2017 for filters); of a unit with ``p`` infinite its
    largest."""

    p: float = 1.0

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise ValueError(f"the p of a p-norm is {self.p}; it must be above 0, math.inf for the largest")

    def elements(self, view: WeightView) -> Tensor:
        return view.weight.abs() if math.isinf(self.p) else powers(view.weight, self.p)

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        return cells.amax(-1) if math.isinf(self.p) else reduce(cells)


@dataclass(frozen=True)
class Random(Criterion):
    """A draw that follows from the seed and the tensor's name: the baseline that every criterion has to beat."""

    seed: int = 0

    def elements(self, view: WeightView) -> Tensor:
        key = f"{self.seed} {view.seed} {view.site.name}"
        return drawn(key, view.weight.numel()).view(view.weight.shape).to(view.weight.device)

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        return cells[..., 0]  # a sum of draws would be no worse, and no more random


@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """FPGM (He et al. 2019): a unit is worth the sum of the distances of its weights to those of all others."""

    def elements(self, view: WeightView) -> Tensor:
        return view.weight

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        return distances(cells)


@dataclass(frozen=True)
class Lamp(Criterion):
    """LAMP (Lee et al. 2021): ``w^2`` over the sum of all ``w^2`` in the tensor that are no smaller, itself included.

    Meant for ``Together``: the score says what share of the layer's rest an element is. Equal elements share a score.
    """

    def elements(self, view: WeightView) -> Tensor:
        return view.weight.square()

    def worth(self, known: Tensor) -> Tensor:
        order = known.flatten().double().sort(stable=True)
        rest = order.values.flip(0).cumsum(0).flip(0)
        first = torch.searchsorted(order.values, order.values)  # of those that are equal
        found = torch.empty_like(rest)
        found[order.indices] = order.values / rest[first].clamp_min(torch.finfo(rest.dtype).tiny)
        return found.view(known.shape)
