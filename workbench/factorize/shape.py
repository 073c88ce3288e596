"""What a factorised layer is made of and costs: stages, each a convolution or linear layer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from workbench.moments import Moments

JITTER = 1e-7  # of the mean square of the inputs: what the data does not span is kept by size, as plain methods do
DEPTHWISE = "it is depthwise: each output reads one channel, which has no rank to lower"
NO_KERNEL = "it has no kernel, where weight_svd does the same with fewer layers"


@dataclass(frozen=True)
class Shape:
    """A layer's weight ``[groups * outputs, inputs, kernel...]``; the kernel of a linear layer is empty."""

    groups: int
    outputs: int  # of each group
    inputs: int
    kernel: tuple[int, ...]

    @classmethod
    def of(cls, weight: Tensor | torch.Size, groups: int = 1) -> Shape:
        """From the weight as a module holds it, or its shape."""
        outputs, inputs, *kernel = weight.shape if isinstance(weight, Tensor) else weight
        return cls(groups, outputs // groups, inputs, tuple(kernel))

    @property
    def depthwise(self) -> bool:
        """Whether each output reads one channel: there is nothing between them to be of low rank."""
        return self.groups > 1 and self.inputs == 1


@dataclass(frozen=True)
class Stage:
    """One layer of a factorised one, per group of the layer.

    ``inputs`` and ``outputs`` are ranks, or None where they are the layer's own; ``dims`` says which dimensions of the
    kernel it has, with their stride, padding and dilation; in the others it is one wide.
    """

    inputs: int | None
    outputs: int | None
    dims: tuple[bool, ...]

    def kernel(self, shape: Shape) -> tuple[int, ...]:
        """Its own kernel."""
        return tuple(size if has else 1 for size, has in zip(shape.kernel, self.dims, strict=True))

    def size(self, shape: Shape) -> int:
        """The elements of its weight, of all groups."""
        inputs, outputs = self.inputs or shape.inputs, self.outputs or shape.outputs
        return shape.groups * inputs * outputs * prod(self.kernel(shape))


def params_of(shape: Shape, stages: Sequence[Stage]) -> int:
    """The elements of all stages' weights; the bias is the layer's own."""
    return sum(stage.size(shape) for stage in stages)


def positions_of(stages: Sequence[Stage], before: Sequence[int], after: Sequence[int], rows: int = 1) -> list[int]:
    """How often each stage is applied to one sample.

    A dimension has its size of ``before`` until a stage has that dimension's kernel, with its stride, and the size of
    ``after`` from there on; ``rows`` multiplies all, for a linear layer on sequences.
    """
    done = [False] * len(before)
    found = []
    for stage in stages:
        done = [old or new for old, new in zip(done, stage.dims, strict=True)]
        found.append(rows * prod(b if had else a for a, b, had in zip(before, after, done, strict=True)))
    return found


def macs_of(
    shape: Shape, stages: Sequence[Stage], before: Sequence[int] = (), after: Sequence[int] = (), rows: int = 1
) -> int:
    """Multiply-accumulates of one sample, with the sizes of the layer's input and output.

    Examples
    --------
    >>> down = Stage(None, 2, (True, False)), Stage(2, None, (False, True))
    >>> macs_of(Shape(1, 4, 3, (3, 3)), down, (8, 8), (4, 4))  # the first stage halves one dimension only
    960
    """
    places = positions_of(stages, before, after, rows)
    return sum(stage.size(shape) * count for stage, count in zip(stages, places, strict=True))


class Method(Protocol):
    """A way to factorise. Weights are float64 ``[groups, outputs, inputs, kernel...]``.

    A ``metric`` is float64 ``[groups, columns, columns]``: the error of a weight that differs by D is ``tr(D metric
    D^T)``, D flattened to ``[groups, outputs, columns]``. Without one, it is the sum of the squared differences.
    """

    @property
    def name(self) -> str:
        """As a plan spells it."""

    def unfit(self, shape: Shape) -> str:
        """Why a layer of this shape cannot be factorised so; empty where it can."""

    def full(self, shape: Shape) -> int:
        """The rank from which on any weight is met exactly."""

    def stages(self, shape: Shape, rank: int) -> tuple[Stage, ...]:
        """What the layer becomes."""

    def factors(self, weight: Tensor, rank: int, metric: Tensor | None = None, steps: int = ...) -> tuple[Tensor, ...]:
        """The weights of the stages, float64 ``[groups, outputs, inputs, kernel...]``."""

    def errors(self, weight: Tensor, metric: Tensor, most: int, through: Tensor | None = None) -> Tensor:
        """The errors to expect at ranks 1 to ``most``, ``[most]``: all from one decomposition.

        With ``through``, float64 ``[groups, outputs, n]``, it is ``[most, 2]``, and the second column the error of what
        that makes of the outputs.
        """


def metric_of(moments: Moments, intercept: bool = True) -> Tensor:
    """The metric of a layer's output error over all rows; with an intercept, the bias takes up the mean of the error.

    It is never singular: what no row contains counts for very little, not for nothing.
    """
    metric = moments.xx[:, :-1, :-1].clone()
    if intercept and moments.count:
        sums = moments.xx[:, :-1, -1]
        metric -= sums[:, :, None] * sums[:, None] / moments.count
    return definite(metric, JITTER)[0]


def definite(matrices: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """Matrices ``[..., n, n]`` that are definite up to rounding, lifted until they are, and their Cholesky factors.

    ``jitter`` times the mean of the diagonal is added to it, and ten times as much wherever that is not enough.

    Raises
    ------
    ValueError
        They hold NaN or infinity, which no lifting makes definite.
    """
    if not matrices.isfinite().all():
        raise ValueError(
            "the second moments of a layer are not finite; scale the inputs as in training, or use model.double()"
        )
    scale = torch.diagonal(matrices, dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(matrices.dtype).tiny ** 0.5)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    while True:
        lifted = matrices + jitter * scale[..., None, None] * identity
        factors, failed = torch.linalg.cholesky_ex(lifted)
        if not failed.any():
            return lifted, factors
        jitter *= 10


def error_of(difference: Tensor, metric: Tensor | None) -> float:
    """The error of a weight that differs by so much."""
    flat = difference.flatten(2)
    return (flat.square() if metric is None else (flat @ metric) * flat).sum().item()
