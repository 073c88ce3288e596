"""Weights ``W[o, u, j] = sum_r B[o, r, j] A[r, u]``: the least output error, for which there is no closed form.

A is what the first layer does to its inputs u (channels, or channels and one side of the kernel), B what the second
does to what lies between, at the places j of its kernel. For a fixed A the best B is linear least squares, so that the
error is a function of A alone (variable projection, Golub & Pereyra 1973), which L-BFGS brings down: in the metric of
the inputs, and in the basis of A in which B is orthonormal, where the function bends alike in all directions. It starts
from the dominant directions of W in the metric and, in layers that are not wide, from those of W itself and from random
ones: small layers have many local minima, of large ones all are nearly equally good. The error is never above that of
the plain decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from workbench.factorize.descent import descend
from workbench.factorize.shape import definite, error_of

STEPS = 250
FEW = 4  # steps from one start, after which it has gained all but some hundredths of what it can
MANY, ROUGH = 8, 40  # of so many starts the best quarter goes on after so many steps
RANDOM, CHEAP = 30, 1 << 22  # starts at most, and multiplications of the metric for all of them at each step
WIDE = 512  # columns
TINY = {torch.float64: 1e-12, torch.float32: 1e-6}  # of the mean of a diagonal, added to it

Factors = tuple[Tensor, Tensor]  # A [groups, r, u], B [groups, o, r, j]


def fit(
    weight: Tensor, rank: int, metric: Tensor | None = None, steps: int = STEPS, outputs: int | None = None
) -> Factors:
    """The factors of a weight ``[groups, o, u, j]``; with ``outputs``, the rank of B ``[o, r * j]`` is at most that."""
    plain = _plain(weight, rank, outputs)
    if metric is None:
        return plain
    error = OutputError.of(weight, metric, outputs)
    quick = error.quick()
    starts = quick.balanced(error.starts(plain[0]).to(quick.weight))
    if starts.shape[1] >= MANY:
        starts, steps = _least(*descend(quick, starts, min(steps, ROUGH)), starts.shape[1] // 4), steps - ROUGH
    best = _least(*descend(quick, starts, steps), 1)[:, 0].to(weight)
    found = torch.linalg.solve_triangular(error.root, best, upper=False, left=False), error.best(best[:, None])[:, 0]
    apart = [error_of(weight - composed(factors), metric) for factors in (found, plain)]
    return found if apart[0] <= apart[1] else plain  # rounding at ranks that lose nothing


def errors(weight: Tensor, metric: Tensor, most: int, through: Tensor | None = None) -> Tensor:
    """The errors to expect at ranks 1 to ``most``, ``[most]``; with ``through`` ``[most, 2]``, see ``Method.errors``.

    Those of the dominant directions, all from one factorisation, times what a few steps leave of a middle one.
    """
    error = OutputError.of(weight, metric).quick()
    found = error.unexplained(error.explained(most), through)
    found = torch.cat([found, found[-1:].expand(max(0, most - len(found)), -1)]) * error.left((most + 1) // 2)
    return found[:, 0] if through is None else found


def composed(factors: Factors) -> Tensor:
    """``[groups, o, u, j]``."""
    into, out = factors
    return torch.einsum("gorj,gru->gouj", out, into)


def directions(weight: Tensor) -> Tensor:
    """Orthonormal directions of the inputs ``[groups, r, u]``, those first that carry most of the weight."""
    _, outputs, inputs, places = weight.shape
    gram = torch.einsum("gouj,govj->guv", weight, weight)
    return torch.linalg.eigh(gram).eigenvectors.flip(2).mT[:, : min(outputs * places, inputs)]


def _least(points: Tensor, values: Tensor, count: int) -> Tensor:
    """The points ``[groups, count, r, u]`` with the least values ``[groups, starts]``."""
    places = values.topk(count, largest=False).indices
    return points[torch.arange(len(points))[:, None], places]


def _plain(weight: Tensor, rank: int, outputs: int | None) -> Factors:
    """The singular value decomposition; of both sides with ``outputs``, one after the other."""
    into = directions(weight)[:, :rank]
    out = torch.einsum("gouj,gru->gorj", weight, into)  # the directions are orthonormal
    return into, _truncated(out, None, outputs)


def _truncated(out: Tensor, factor: Tensor | None, outputs: int | None) -> Tensor:
    """B ``[..., o, r, j]`` of at most that rank, nearest in the metric whose Cholesky factor is given.

    That is reduced-rank regression.
    """
    if outputs is None or outputs >= out.shape[-3]:
        return out
    flat = out.flatten(-2)
    seen = flat if factor is None else flat @ factor
    left = torch.linalg.eigh(seen @ seen.mT).eigenvectors[..., -outputs:]
    return (left @ (left.mT @ flat)).view_as(out)


@dataclass(frozen=True)
class OutputError:
    """The output error as a function of A ``[groups, starts, r, u]``, B being the best for it.

    All is in inputs that are alone uncorrelated: those of the layer times the inverse of ``root``, the Cholesky factor
    of their metric, as a mean over the places.
    """

    weight: Tensor  # [groups, o, u, j]
    metric: Tensor  # [groups, u * j, u * j]
    seen: Tensor  # [groups, o, u, j], the metric times the weight
    root: Tensor  # [groups, u, u]
    outputs: int | None

    @classmethod
    def of(cls, weight: Tensor, metric: Tensor, outputs: int | None = None) -> OutputError:
        groups, _, inputs, places = weight.shape
        whole = metric.view(groups, inputs, places, inputs, places)
        root = torch.linalg.cholesky(torch.diagonal(whole, dim1=2, dim2=4).sum(-1) / places)
        for _ in range(2):  # from both sides
            half = torch.linalg.solve_triangular(root, whole.flatten(2), upper=False)
            whole = half.view_as(whole).permute(0, 3, 4, 1, 2)
        white = torch.einsum("gouj,guv->govj", weight, root).contiguous()
        flat = whole.reshape(groups, inputs * places, -1).contiguous()
        return cls(white, flat, (white.flatten(2) @ flat).view_as(white), root, outputs)

    @cached_property
    def dominant(self) -> Tensor:
        """The directions of the weight in the metric."""
        return directions(self.weight)

    @property
    def wide(self) -> bool:
        """Whether descents are short of time rather than of digits and of starts."""
        return self.metric.shape[1] >= WIDE

    def quick(self) -> OutputError:
        """To descend by: of wide layers in float32, which takes half the time."""
        parts = {name: getattr(self, name).float() for name in ("weight", "metric", "seen", "root")}
        return replace(self, **parts) if self.wide else self

    def __call__(self, into: Tensor) -> tuple[Tensor, Tensor]:
        """The errors ``[groups, starts]`` and their gradients: B is the best, so that its own change adds nothing."""
        out = self.best(into)
        difference = self.weight[:, None] - torch.einsum("gsorj,gsru->gsouj", out, into)
        pulled = (difference.flatten(1, 2).flatten(2) @ self.metric).view_as(difference)
        return (pulled * difference).sum((2, 3, 4)), -2 * torch.einsum("gsorj,gsouj->gsru", out, pulled)

    def best(self, into: Tensor) -> Tensor:
        """The best B ``[groups, starts, o, r, j]``."""
        factor, right = self.normal(into)
        out = torch.cholesky_solve(right, factor).unflatten(2, (into.shape[2], -1)).permute(0, 1, 4, 2, 3)
        return _truncated(out, factor, self.outputs)

    def normal(self, into: Tensor) -> Factors:
        """The normal equations for B: Cholesky factor ``[groups, starts, r * j, r * j]``, right side ``[..., o]``."""
        groups, _, inputs, places = self.weight.shape
        starts, rank = into.shape[1:3]
        once = (into.flatten(1, 2) @ self.metric.view(groups, inputs, -1)).view(groups, starts, -1, inputs, places)
        inner = torch.einsum("gsxvk,gstv->gsxtk", once, into).flatten(3)
        factor = definite((inner + inner.mT) / 2, TINY[inner.dtype])[1]
        right = torch.einsum("gsru,gouj->gsrjo", into, self.seen)
        return factor, right.reshape(groups, starts, rank * places, -1)

    def explained(self, most: int) -> Tensor:
        """What each dominant direction adds to the output, ``[groups, r, j, o]`` in orthogonal terms.

        There are at most ``most``, or as many as there are inputs; squares of sums are sums of squares.
        """
        start = self.dominant[:, :most]
        factor, right = self.normal(start[:, None])
        half = torch.linalg.solve_triangular(factor, right, upper=False)[:, 0]
        return half.unflatten(1, (start.shape[1], -1))

    def unexplained(self, explained: Tensor, through: Tensor | None) -> Tensor:
        """The errors with the first 1, 2, ... directions, ``[r, 1]``; ``[r, 2]`` with what ``through`` makes of it."""
        whole = self.weight.flatten(2) @ self.seen.flatten(2).mT  # [groups, o, o]
        found = [torch.einsum("goo->", whole) - explained.square().sum((0, 2, 3)).cumsum(0)]
        if through is not None:
            through = through.to(whole)
            total = torch.einsum("gon,gop,gpn->", through, whole, through)
            found.append(total - (explained @ through[:, None]).square().sum((0, 2, 3)).cumsum(0))
        return torch.stack(found, -1).double().clamp_min(0)

    def left(self, rank: int) -> float:
        """Which share of the error of the dominant directions is left after a few steps."""
        start = self.dominant[:, None, :rank]
        before = self(start)[0].sum().item()
        after = descend(self, self.balanced(start), FEW)[1].sum().item()
        return min(1.0, after / before) if before > 0 else 1.0

    def starts(self, plain: Tensor) -> Tensor:
        """The directions of the weight in its metric, and where they are cheap those without it, and random ones."""
        groups, rank, inputs = plain.shape
        own = self.dominant[:, None, :rank]
        if self.wide:
            return own
        few = min(RANDOM, CHEAP // (self.weight.shape[1] * self.metric[0].numel()))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(groups, few, inputs, rank, generator=generator, dtype=plain.dtype)
        return torch.cat([(plain @ self.root)[:, None], own, torch.linalg.qr(drawn).Q.mT @ self.root[:, None]], 1)

    def balanced(self, into: Tensor) -> Tensor:
        """The same spaces in bases for which B is orthonormal."""
        out = self.best(into)
        values, vectors = torch.linalg.eigh(torch.einsum("gsorj,gsoxj->gsrx", out, out))
        return values.clamp_min(1e-8 * values[..., -1:]).sqrt()[..., None] * (vectors.mT @ into)
