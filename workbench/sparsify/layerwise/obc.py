"""Optimal brain compression: weight by weight, always the one that costs least, all others readjusted each time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.sparsify.amounts import Amount
from workbench.sparsify.layerwise.choice import Choice
from workbench.sparsify.layerwise.problem import Problem, Solution
from workbench.sparsify.layerwise.refit import MEMORY, solved
from workbench.sparsify.patterns import Blocks, NofM, Pattern


@dataclass(frozen=True)
class Obc:
    """Frantar & Alistarh 2022 (arXiv 2208.11580): the exact greedy, for small layers.

    Each row gives up its weights one by one, the least ``w_i^2 / [H^-1]_ii`` first; how many each gives up is chosen
    over the whole matrix, by what each further weight costs. Takes ``rows * columns^3`` steps, which from a thousand
    columns on is hours.
    """

    damp: float = 0.01

    def __call__(self, problem: Problem, pattern: Pattern, amount: Amount) -> Solution:
        if isinstance(pattern, Blocks):
            raise ValueError(f"Obc takes single weights, not {pattern}, from {problem.name}; use SparseGpt")
        weight = problem.weight.masked_fill(problem.dead[:, None], 0)
        matrix = problem.damped(self.damp)
        choice = Choice(problem.name, pattern, amount, problem.gone.flatten(0, 1))
        sets = choice.wanted.view(weight.shape[0], weight.shape[1], -1) if isinstance(pattern, NofM) else None
        taken = torch.cat([
            self._taken(weight[group], problem.gone[group], matrix[group], None if sets is None else sets[group])
            for group in range(len(weight))
        ], 1)  # fmt: skip
        kept = choice.kept(_in_order(*taken), 0).view_as(weight)
        rows = [solved(*row) for row in zip(weight, kept, matrix, strict=True)]
        return Solution.of(torch.stack(rows), kept)

    @staticmethod
    def _taken(weight: Tensor, gone: Tensor, matrix: Tensor, leave: Tensor | None) -> Tensor:
        """For each weight, the dearest step up to the one that took it, and the number of that, ``[2, rows, columns]``.

        ``leave`` is how many of the weights of every set of an N:M pattern leave, ``[rows, sets]``; what stays is
        dearer than anything that leaves.
        """
        inverse = torch.linalg.inv(matrix)
        found = weight.new_empty(2, *weight.shape)
        for some in torch.arange(len(weight), device=weight.device).split(max(1, MEMORY // matrix.numel())):
            quota = None if leave is None else leave[some].clone()
            rows = _Rows(weight[some].clone(), inverse.repeat(len(some), 1, 1), gone[some].clone(), quota)
            found[:, some] = rows.run()
        return found


def _in_order(dearest: Tensor, number: Tensor) -> Tensor:
    """One order of all weights that keeps the order in which each row gave up its own."""
    by_number = number.flatten().argsort(stable=True)
    order = by_number[dearest.flatten()[by_number].argsort(stable=True)]
    places = torch.arange(len(order), device=order.device, dtype=dearest.dtype)
    return torch.empty_like(places).scatter_(0, order, places).view_as(dearest)


@dataclass
class _Rows:
    """Some rows on their way: ``weight`` and ``gone`` are ``[rows, columns]``, ``inverse`` is one matrix a row."""

    weight: Tensor
    inverse: Tensor
    gone: Tensor
    quota: Tensor | None

    def run(self) -> Tensor:
        """Give up weight after weight; see ``Obc._taken``."""
        self._settle()
        dearest, number = torch.full_like(self.weight.expand(2, -1, -1), torch.inf)
        highest = self.weight.new_zeros(len(self.weight))
        for step in range(self.weight.shape[1]):
            free = ~self.gone if self.quota is None else ~self.gone & self._within()
            rows = free.any(1).nonzero().flatten()
            costs = self.weight.square() / torch.diagonal(self.inverse, dim1=1, dim2=2)
            least, columns = costs.where(free, torch.inf)[rows].min(1)
            highest[rows] = torch.maximum(highest[rows], least)
            dearest[rows, columns], number[rows, columns] = highest[rows], step
            self._leave(rows, columns)
        return torch.stack([dearest, number])

    def _within(self) -> Tensor:
        assert self.quota is not None
        return (self.quota > 0).repeat_interleave(self.weight.shape[1] // self.quota.shape[1], 1)

    def _settle(self) -> None:
        """Take out what is gone before."""
        for column in self.gone.any(0).nonzero().flatten().tolist():
            rows = self.gone[:, column].nonzero().flatten()
            self._update(rows, torch.full_like(rows, column))

    def _leave(self, rows: Tensor, columns: Tensor) -> None:
        self._update(rows, columns)
        self.gone[rows, columns] = True
        if self.quota is not None:
            self.quota[rows, columns // (self.weight.shape[1] // self.quota.shape[1])] -= 1

    def _update(self, rows: Tensor, columns: Tensor) -> None:
        """Readjust the other weights of some rows, and take the column out of their inverses."""
        line = self.inverse[rows, columns]
        pivot = line.gather(1, columns[:, None])
        self.weight[rows] -= self.weight[rows, columns][:, None] / pivot * line
        self.inverse[rows] -= line[:, :, None] * line[:, None, :] / pivot[..., None]
        self.weight[rows, columns] = 0
        self.inverse[rows, columns, columns] = 1  # nobody reads it: it must not be divided by
