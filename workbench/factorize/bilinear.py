"""Weights ``W[o, u, j] = sum_r B[o, r, j] A[r, u]``: the least output error, for which there is no closed form.

A is what the first layer does to its inputs u (channels, or channels and one side of the kernel), B what the second
does to what lies between, at the places j of its kernel. For a fixed A the best B is linear least squares, and the
other way round; they are solved in turn from the better of two starts, the dominant directions of W itself and of W in
the metric of its inputs. Every step lowers the error, so that it is never above that of the plain decomposition. Steps
are lengthened as long as that helps: alternating least squares is slow where the inputs are correlated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.factorize.shape import error_of

SWEEPS = 30
STILL = 1e-5  # relative: a sweep that gains less is the last
STEPS = 12  # of conjugate gradients in a sweep
TINY = 1e-12

Factors = tuple[Tensor, Tensor]  # A [groups, r, u], B [groups, o, r, j]


def fit(
    weight: Tensor, rank: int, metric: Tensor | None = None, sweeps: int = SWEEPS, outputs: int | None = None
) -> Factors:
    """The factors of a weight ``[groups, o, u, j]``; with ``outputs``, the rank of B ``[o, r * j]`` is at most that."""
    plain = _plain(weight, rank, outputs)
    if metric is None:
        return plain
    starts = [plain[0], _directions(weight, metric)[..., :rank, :]]
    found = min((_refitted(weight, start, metric, outputs) for start in starts),
                key=lambda factors: _error(weight, factors, metric))  # fmt: skip
    last, reach = _error(weight, found, metric), 1.0
    for _ in range(sweeps):
        step = _improved(weight, found, metric) - found[0]
        tries = [(far, _refitted(weight, found[0] + far * step, metric, outputs)) for far in (1.0, 1.0 + reach)]
        errors = [_error(weight, factors, metric) for _, factors in tries]
        reach = 2 * reach if errors[1] < errors[0] else max(1.0, reach / 4)
        error, moved = min(zip(errors, (factors for _, factors in tries), strict=True), key=lambda pair: pair[0])
        if not error < last:
            break
        found, still = moved, last - error <= STILL * last
        last = error
        if still:
            break
    return found if last <= _error(weight, plain, metric) else plain  # rounding at ranks that lose nothing


def errors(weight: Tensor, metric: Tensor, most: int, through: Tensor | None = None) -> Tensor:
    """The errors at ranks 1 to ``most`` with A as it starts and the best B: all from one factorisation."""
    explained = explained_by(weight, metric, most)  # [groups, r, j, o]
    targets = [explained] if through is None else [explained, explained @ through[:, None]]
    totals = [_energy(weight, metric)] if through is None else [
        _energy(weight, metric), _energy(_seen(weight, through), metric)]  # fmt: skip
    lost = torch.stack([total - part.square().sum((0, 2, 3)).cumsum(0) for total, part in
                        zip(totals, targets, strict=True)], -1).clamp_min(0)  # fmt: skip
    lost = torch.cat([lost, lost[-1:].expand(max(0, most - len(lost)), -1)])[:most]
    return lost[:, 0] if through is None else lost


def explained_by(weight: Tensor, metric: Tensor, most: int) -> Tensor:
    """What each direction adds to the output, ``[groups, r, j, o]`` in orthogonal terms: squares of sums are sums."""
    start = _directions(weight, metric)[:, :most]
    inner, right = _normal(weight, start, metric)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), right, upper=False)
    return half.unflatten(1, (start.shape[1], -1))


def composed(factors: Factors) -> Tensor:
    """``[groups, o, u, j]``."""
    into, out = factors
    return torch.einsum("gorj,gru->gouj", out, into)


def _seen(weight: Tensor, through: Tensor) -> Tensor:
    return torch.einsum("gouj,gon->gnuj", weight, through)


def _energy(weight: Tensor, metric: Tensor) -> float:
    return error_of(weight, metric)


def _error(weight: Tensor, factors: Factors, metric: Tensor) -> float:
    return error_of(weight - composed(factors), metric)


def _plain(weight: Tensor, rank: int, outputs: int | None) -> Factors:
    """The singular value decomposition; of both sides with ``outputs``, one after the other."""
    into = _directions(weight, None)[:, :rank]
    out = torch.einsum("gouj,gru->gorj", weight, into)  # the directions are orthonormal
    return into, _truncated(out, None, outputs)


def _directions(weight: Tensor, metric: Tensor | None) -> Tensor:
    """Orthonormal directions of the inputs ``[groups, r, u]``, those first that carry most of the output."""
    rows = weight.transpose(2, 3).flatten(1, 2)  # [groups, o * j, u]
    if metric is None:
        return torch.linalg.svd(rows, full_matrices=False)[2]
    size = weight.shape[2:]
    alone = torch.diagonal(metric.unflatten(2, size).unflatten(1, size), dim1=2, dim2=4).sum(-1)  # [groups, u, u]
    left = torch.linalg.svd(rows @ torch.linalg.cholesky(alone), full_matrices=False)[0]
    kept = torch.linalg.qr((left.mT @ rows).mT).Q  # nested: the first r span what the first r rows do
    return kept.mT


def _normal(weight: Tensor, into: Tensor, metric: Tensor) -> Factors:
    """The normal equations for B: inner ``[groups, r * j, r * j]`` and right side ``[groups, r * j, o]``."""
    groups, outputs, inputs, places = weight.shape
    rank = into.shape[1]
    once = (into @ metric.view(groups, inputs, -1)).view(groups, rank * places, inputs, places)
    right = once.flatten(2) @ weight.reshape(groups, outputs, -1).mT
    inner = torch.einsum("gxvk,gsv->gxsk", once, into).flatten(2)
    inner = (inner + inner.mT) / 2
    scale = torch.diagonal(inner, dim1=1, dim2=2).mean(1)
    torch.diagonal(inner, dim1=1, dim2=2).add_(TINY * scale[:, None] + torch.finfo(inner.dtype).tiny)
    return inner, right


def _refitted(weight: Tensor, into: Tensor, metric: Tensor, outputs: int | None) -> Factors:
    """The best B for an A."""
    inner, right = _normal(weight, into, metric)
    factor = torch.linalg.cholesky(inner)
    out = torch.cholesky_solve(right, factor).unflatten(1, (into.shape[1], -1)).permute(0, 3, 1, 2)
    return into, _truncated(out, factor, outputs)


def _truncated(out: Tensor, factor: Tensor | None, outputs: int | None) -> Tensor:
    """B of at most that rank, nearest in the metric whose Cholesky factor is given: reduced-rank regression."""
    if outputs is None or outputs >= out.shape[1]:
        return out
    flat = out.flatten(2)
    left = torch.linalg.svd(flat if factor is None else flat @ factor, full_matrices=False)[0][..., :outputs]
    return (left @ (left.mT @ flat)).view_as(out)


def _improved(weight: Tensor, factors: Factors, metric: Tensor) -> Tensor:
    """A nearer to the best for a B, by conjugate gradients."""
    into, out = factors
    shape = weight.shape
    places, size = shape[3], shape[2:]

    def gradient(difference: Tensor) -> Tensor:
        seen = (difference.flatten(2) @ metric).view(shape)
        return torch.einsum("gorj,gouj->gru", out, seen)

    # a Kronecker product is near to the Hessian, and cheap to invert
    alone = torch.diagonal(metric.unflatten(2, size).unflatten(1, size), dim1=2, dim2=4).sum(-1) / places
    square = torch.einsum("gorj,gosj->grs", out, out)
    lifted = square + TINY * torch.eye(square.shape[1]) * torch.diagonal(square, dim1=1, dim2=2).mean()
    halves = torch.linalg.cholesky_ex(lifted)[0], torch.linalg.cholesky(alone)

    def solved(right: Tensor) -> Tensor:
        return torch.cholesky_solve(torch.cholesky_solve(right, halves[0]).mT, halves[1]).mT

    residual = gradient(weight - composed(factors))
    step = solved(residual)
    direction, power = step, (residual * step).sum()
    for _ in range(STEPS):
        curved = gradient(composed((direction, out)))
        bend = (direction * curved).sum()
        if not bend > 0:
            break
        into = into + power / bend * direction
        residual = residual - power / bend * curved
        step = solved(residual)
        before, power = power, (residual * step).sum()
        if not power > TINY * before:
            break
        direction = step + power / before * direction
    return into
