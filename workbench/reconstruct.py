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

import torch
from torch import Tensor

from workbench.calibrate import Evidence
from workbench.moments import Moments

FOLD = math.inf  # the ridge that leaves the weights and fits the bias alone
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, FOLD)  # of the mean square of the inputs


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
    evidence : moments of the inputs as they are now, with the outputs as they should be
    intercept : whether the layer can take a new bias; without, the fit goes through the old one
    ridges : the strengths to choose from, relative to the mean square of the inputs; ``inf`` fits the bias alone, and
        without any the weights stay as they were
    """
    groups = len(evidence.fit.xx)
    old = _solution(weight, bias, groups)
    columns = torch.tensor([*kept, old.shape[1] - 1])
    dropped = torch.zeros_like(old)
    dropped[:, columns] = old[:, columns]
    before = evidence.held_out.error(dropped)
    fits = {ridge: _fit(evidence.fit, dropped, columns, ridge, intercept) for ridge in ridges}
    errors = {ridge: evidence.held_out.error(fit) for ridge, fit in fits.items()}
    best = min(errors, key=lambda ridge: errors[ridge], default=None)
    scale = evidence.held_out.energy or 1.0
    if best is None or not errors[best] < before:
        return Repair(*_tensors(dropped, weight, bias), (before / scale, before / scale), None)
    solution = _fit(evidence.all, dropped, columns, best, intercept)  # the choice is made: use every row
    return Repair(*_tensors(solution, weight, bias), (before / scale, errors[best] / scale), best)


def _solution(weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Weight and bias as one matrix for each group, ``[groups, p + 1, q]``."""
    matrix = weight.detach().cpu().double().flatten(1).unflatten(0, (groups, -1)).mT
    constant = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().cpu().double()
    return torch.cat([matrix, constant.view(groups, 1, -1)], 1)


def _tensors(solution: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The matrix as weight and bias again."""
    matrix, constant = solution[:, :-1].mT, solution[:, -1]
    return matrix.reshape(weight.shape).to(weight), constant.reshape(-1).to(weight)


def _fit(moments: Moments, dropped: Tensor, columns: Tensor, ridge: float, intercept: bool) -> Tensor:
    """The ridge solution on these columns (the last is the constant), zero elsewhere."""
    free = columns if intercept else columns[:-1]
    solution = dropped.clone()
    if ridge == FOLD:
        if intercept and moments.count:
            solution[:, -1] += (moments.xy[:, -1] - (moments.xx[:, -1:] @ dropped)[:, 0]) / moments.count
        return solution
    xx = moments.xx[:, free[:, None], free]
    xy = moments.xy[:, free]
    if not intercept:
        xy = xy - moments.xx[:, free, -1:] * dropped[:, -1:]
    size = len(columns) - 1
    squares = torch.diagonal(xx, dim1=1, dim2=2)[:, :size]
    strength = torch.zeros(len(xx), len(free), dtype=torch.float64)
    strength[:, :size] = ridge * squares.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # an input that is always zero cannot be fitted, and its old weight does no harm
    strength[:, :size] += squares.eq(0)
    factor, failed = torch.linalg.cholesky_ex(xx + torch.diag_embed(strength))
    if failed.any():  # too singular for this ridge: the old weights stand, and a stronger one will win
        return solution
    solution[:, free] = torch.cholesky_solve(xy + strength[..., None] * dropped[:, free], factor)
    return solution
