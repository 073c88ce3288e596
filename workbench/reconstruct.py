"""Least squares: new weights and bias for a layer that lost input columns, so that it gives what it gave.

With second moments G of the inputs, the kept columns R and the wanted outputs Y, the solution of
``min ||[X_R, 1] W' - Y||^2 + lambda ||W' - W_R||^2`` needs only G (see ``Moments``), never the data. The ridge pulls
towards the old weights, never the bias; its strength is chosen on rows that were held out, and the repair is kept only
where it helps there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor, nn

from workbench.calibrate import Evidence
from workbench.moments import Moments

FOLD = math.inf  # the ridge that leaves the weights and fits the bias alone
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, FOLD)  # of the mean square of the inputs
OUTPUTS = 64  # of a layer, at least so many of which tell a good ridge from a bad one


@dataclass(frozen=True)
class Repair:
    """A layer's new weight, in its old shape with zeros at the columns it lost, and its new bias.

    ``error`` is the relative output error on held-out rows (squared, over the variance of the output), before
    reconstruction and after; ``ridge`` is None where the old weights were kept.
    """

    weight: Tensor
    bias: Tensor | None
    error: tuple[float, float]
    ridge: float | None


def reconstruct(
    weight: Tensor, bias: Tensor | None, kept: Sequence[int], evidence: Evidence, *, intercept: bool = True,
    ridges: Sequence[float] = RIDGES,
) -> Repair:  # fmt: skip
    """Fit a layer's weight and bias to the outputs in ``evidence`` with only the kept columns.

    Parameters
    ----------
    weight : ``[out, in / groups, k...]``
    bias : ``[out]`` or None
    kept : the columns that stay, of the ``in / groups * k...`` columns
    evidence : moments of the kept columns as they are now, with the outputs as they should be
    intercept : whether the layer can take a new bias; without, the fit goes through the old one
    ridges : the strengths to choose from, relative to the mean square of the inputs; ``inf`` fits the bias alone, and
        without any the weights stay as they were
    """
    whole = _solution(weight, bias, len(evidence.fit.xx))
    columns = torch.tensor([*kept, whole.shape[1] - 1])
    old = whole[:, columns]
    before = after = evidence.held_out.error(old)
    solution, best = old, None
    if len(ridges):
        fit = _Fit(evidence.fit, old, intercept)
        best = _best(fit, evidence.held_out, ridges)
        after = evidence.held_out.error(fit.solution(best))
        if after < before:  # the choice is made: use every row
            solution = _Fit(evidence.all, old, intercept).solution(best)
        else:
            after, best = before, None
    scale = evidence.held_out.energy or 1.0
    new = torch.zeros_like(whole)
    new[:, columns] = solution
    return Repair(*_tensors(new, weight, bias), (before / scale, after / scale), best)


def _best(fit: _Fit, held_out: Moments, ridges: Sequence[float]) -> float:
    """The ridge with the least error on held-out rows: downhill from a middle one, by a few of the outputs."""
    some = slice(None, None, -(-fit.old.shape[-1] // OUTPUTS))
    check = held_out.outputs(some)
    error = cache(lambda place: check.error(fit.solution(ridges[place], some)))
    place = (len(ridges) - 1) // 2
    for step in (-1, 1):
        fit.hold(ridges[place])
        start = place
        while 0 <= place + step < len(ridges) and error(place + step) < error(place):
            place += step
        if place != start:
            break
    return ridges[place]


def _solution(weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Weight and bias as one matrix for each group, ``[groups, p + 1, q]``."""
    matrix = weight.detach().cpu().double().flatten(1).unflatten(0, (groups, -1)).mT
    constant = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().cpu().double()
    return torch.cat([matrix, constant.view(groups, 1, -1)], 1)


def _tensors(solution: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The matrix as weight and bias again."""
    matrix, constant = solution[:, :-1].mT, solution[:, -1]
    return matrix.reshape(weight.shape).to(weight), constant.reshape(-1).to(weight)


class _Fit:
    """Ridge solutions around an old one, ``[groups, kept + 1, q]``; the last row is the bias."""

    def __init__(self, moments: Moments, old: Tensor, intercept: bool):
        self.moments, self.old, self.intercept = moments, old, intercept
        size = old.shape[1] - 1
        self.free = slice(None) if intercept else slice(size)
        squares = torch.diagonal(moments.xx, dim1=1, dim2=2)[:, :size]
        self.scale = squares.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        self.dead = squares.eq(0)  # what is always zero cannot be fitted, and its old weight does no harm
        self.factor = lru_cache(2)(self._factor)  # no more: of 8,192 columns it takes half a gigabyte

    def hold(self, ridge: float) -> None:
        """Of the two factors that are kept, the next one shall not replace this ridge's."""
        if ridge != FOLD:
            self.factor(ridge)

    def solution(self, ridge: float, outputs: slice = slice(None)) -> Tensor:
        """For some of the outputs; the old one where the moments are too singular for this ridge."""
        solution = self.old[..., outputs].clone()
        if ridge == FOLD:
            return self._folded(solution, outputs)
        factor = self.factor(ridge)
        if factor is None:
            return solution
        xy = self.moments.xy[:, self.free, outputs]
        if not self.intercept:
            xy = xy - self.moments.xx[:, self.free, -1:] * solution[:, -1:]
        right = xy + self._strength(ridge)[..., None] * solution[:, self.free]
        # three times as fast as cholesky_solve
        half = torch.linalg.solve_triangular(factor, right, upper=False)
        solution[:, self.free] = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        return solution

    def _folded(self, solution: Tensor, outputs: slice) -> Tensor:
        count, xx, xy = self.moments.count, self.moments.xx, self.moments.xy[..., outputs]
        if self.intercept and count:
            solution[:, -1] += (xy[:, -1] - (xx[:, -1:] @ solution)[:, 0]) / count
        return solution

    def _factor(self, ridge: float) -> Tensor | None:
        matrix = self.moments.xx[:, self.free, self.free].clone()
        torch.diagonal(matrix, dim1=1, dim2=2).add_(self._strength(ridge))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed.any() else factor

    def _strength(self, ridge: float) -> Tensor:
        strength = ridge * self.scale + self.dead
        return nn.functional.pad(strength, (0, 1)) if self.intercept else strength  # never on the bias
