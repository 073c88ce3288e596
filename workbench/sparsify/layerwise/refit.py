"""The best weights under a mask: of each row alone, directly, or of all rows together, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 1 << 27  # numbers in the systems that are solved at a time


def solved(weight: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
    """The rows ``v`` with least ``(v - w) H (v - w)^T`` that are zero where nothing is kept, exactly.

    ``weight`` and ``kept`` are ``[rows, columns]``, ``matrix`` is H. This is the joint update of the optimal brain
    surgeon: one small system a row.
    """
    found = torch.empty_like(weight)
    for some in torch.arange(len(weight), device=weight.device).split(max(1, MEMORY // matrix.numel())):
        stays = kept[some]
        system = matrix * stays[:, :, None] * stays[:, None, :]
        torch.diagonal(system, dim1=1, dim2=2).add_((~stays).to(system))
        found[some] = torch.linalg.solve(system, (weight[some] @ matrix) * stays)
    return found.masked_fill(~kept, 0)


def refitted(weight: Tensor, start: Tensor, kept: Tensor, matrix: Tensor, steps: int) -> Tensor:
    """The same for all rows together by conjugate gradients from ``start``, which no step makes worse.

    ``weight``, ``start`` and ``kept`` are ``[groups, outputs, columns]``, ``matrix`` is ``[groups, columns, columns]``.
    """
    scale = torch.diagonal(matrix, dim1=1, dim2=2)[:, None]
    found = start.masked_fill(~kept, 0)
    residual = ((weight - found) @ matrix) * kept
    direction = ahead = residual / scale
    energy = (residual * ahead).sum(-1, keepdim=True)
    least = energy * torch.finfo(weight.dtype).eps ** 2
    for _ in range(steps):
        along = (direction @ matrix) * kept
        length = (direction * along).sum(-1, keepdim=True)
        step = torch.where((energy > least) & (length > 0), energy / length.where(length > 0, 1), 0)
        found = found + step * direction
        residual = residual - step * along
        ahead = residual / scale
        before, energy = energy, (residual * ahead).sum(-1, keepdim=True)
        direction = ahead + energy / before.where(before > 0, 1) * direction
    return found
