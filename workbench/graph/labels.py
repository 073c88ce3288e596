"""Label tensors: for every element of a tensor, the atom that its index along one axis comes from.

A tensor carries one label per independent axis: a weight ``[out, in, k, k]`` has a label that varies along dimension 0
and one that varies along dimension 1. A label has stride 0 along every dimension in which it does not vary, so that it
costs no memory there and its varied dimensions can be read off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.graph.atoms import NOTHING

Labels = tuple[Tensor, ...]


def varied(label: Tensor) -> tuple[int, ...]:
    """The dimensions along which a squashed label changes."""
    return tuple(
        d for d, (size, stride) in enumerate(zip(label.shape, label.stride(), strict=True)) if size > 1 and stride
    )


def along(atoms: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """A label of the given shape that is ``atoms`` along one dimension."""
    view = [1] * len(shape)
    view[dim] = -1
    return atoms.view(view).expand(tuple(shape))


def flat(label: Tensor) -> Tensor:
    """The label without the dimensions in which it does not vary."""
    kept = varied(label)
    for dim in reversed(range(label.ndim)):
        if dim not in kept:
            label = label.select(dim, 0)
    return label


def squash(label: Tensor) -> Tensor | None:
    """The same label with stride 0 wherever it is constant, or None where it names nothing at all."""
    if label.numel() == 0:
        return None
    shape = label.shape
    for dim in varied(label):
        first = label.narrow(dim, 0, 1)
        if torch.equal(first.expand_as(label), label):
            label = first.expand(shape)
    if not varied(label):
        return None  # a single index, of a dimension of size 1: it cannot leave
    return label if bool((label != NOTHING).any()) else None


def squashed(labels: Sequence[Tensor]) -> Labels:
    """The labels that name something, squashed."""
    return tuple(label for label in map(squash, labels) if label is not None)


def resized(label: Tensor, shape: Sequence[int]) -> Tensor:
    """A label carried to another shape of the same rank, along whose changed dimensions it is constant."""
    for dim, size in enumerate(shape):
        if label.shape[dim] != size:
            label = label.narrow(dim, 0, 1)
    return label.expand(tuple(shape))
