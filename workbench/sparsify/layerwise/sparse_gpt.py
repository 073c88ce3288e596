"""SparseGPT: columns are decided from left to right, and those to the right take up what left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.sparsify.amounts import Amount
from workbench.sparsify.layerwise.choice import Choice
from workbench.sparsify.layerwise.problem import Problem, Solution
from workbench.sparsify.patterns import Pattern


@dataclass(frozen=True)
class SparseGpt:
    """Frantar & Alistarh 2023 (arXiv 2301.00774), for linear layers and convolutions.

    ``block`` columns are decided together, by ``w^2 / U_ii^2`` where ``U`` is the upper Cholesky factor of the inverse
    Hessian; with N:M, m at a time. Given what leaves, each row is what the optimal brain surgeon makes of it when the
    columns go one by one and those on the left are settled. ``damp`` is a share of the mean diagonal.
    """

    block: int = 128
    damp: float = 0.01

    def __post_init__(self) -> None:
        if self.block < 1 or self.damp < 0:
            raise ValueError(f"block={self.block} and damp={self.damp} make no sense; give 1 or more, and 0 or more")

    def __call__(self, problem: Problem, pattern: Pattern, amount: Amount) -> Solution:
        weight = problem.weight.masked_fill(problem.dead[:, None], 0)
        factor = inverse_factor(problem.damped(self.damp))
        choice = Choice(problem.name, pattern, amount, problem.gone.flatten(0, 1))
        kept = torch.empty_like(problem.gone)
        span = choice.span(self.block)
        size = max(1, self.block // span) * span
        for start in range(0, weight.shape[2], size):
            some = slice(start, start + size)
            errors = self._block(weight[..., some], factor[:, some, some], kept[..., some], choice, start, span)
            weight[..., some.stop :] -= errors @ factor[:, some, some.stop :]
        return Solution.of(weight, kept)

    @staticmethod
    def _block(weight: Tensor, factor: Tensor, kept: Tensor, choice: Choice, first: int, span: int) -> Tensor:
        """Settle some columns in place; what each lost, over its diagonal entry, ``[groups, outputs, columns]``."""
        errors = torch.zeros_like(weight)
        diagonal = torch.diagonal(factor, dim1=1, dim2=2)[:, None]
        for column in range(weight.shape[2]):
            if column % span == 0:
                some = slice(column, column + span)
                worth = (weight[..., some] / diagonal[..., some]).square()
                kept[..., some] = choice.kept(worth.flatten(0, 1), first + column).view_as(worth)
            error = (weight[..., column] * ~kept[..., column]) / diagonal[..., column]
            weight[..., column:] -= error[..., None] * factor[:, None, column, column:]
            errors[..., column] = error
        return errors


def inverse_factor(matrix: Tensor) -> Tensor:
    """The upper Cholesky factor ``U`` of the inverse, ``inv(matrix) = U^T U``, with no inverse in between.

    The Cholesky factor of the matrix read backwards is, backwards, an upper ``R`` with ``matrix = R R^T``; ``U`` is its
    inverse.
    """
    backwards = torch.linalg.cholesky(matrix.flip(1, 2)).flip(1, 2)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(backwards, identity.expand_as(matrix), upper=True)
