"""Label tensors: for every element of a tensor, the atom that its index along one axis comes from.

A tensor carries one label per independent axis: a weight ``[out, in, k, k]`` has a label that varies along dimension 0
and one that varies along dimension 1. A label has stride 0 along every dimension in which it does not vary, so that it
costs no memory there and its varied dimensions can be read off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Labels = tuple[Tensor, ...]
NOTHING = -1.0  # the label of an element that comes from no index


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


def core(label: Tensor) -> Tensor:
    """The label with size 1 in the dimensions in which it does not vary."""
    for dim, (size, stride) in enumerate(zip(label.shape, label.stride(), strict=True)):
        if size > 1 and not stride:
            label = label.narrow(dim, 0, 1)
    return label


def squash(label: Tensor) -> Tensor | None:
    """The same label with stride 0 wherever it is constant, or None where it names nothing at all."""
    if label.numel() == 0:
        return None
    thin = core(label)
    for dim in varied(thin):
        first = thin.narrow(dim, 0, 1)
        if torch.equal(first.expand_as(thin), thin):
            thin = first
    if thin.numel() == 1:
        return None  # a single index, of a dimension of size 1: it cannot leave
    return thin.expand(label.shape) if bool((thin != NOTHING).any()) else None


def squashed(labels: Sequence[Tensor]) -> Labels:
    """The labels that name something, squashed."""
    return tuple(label for label in map(squash, labels) if label is not None)


def resized(label: Tensor, shape: Sequence[int]) -> Tensor:
    """A label carried to another shape of the same rank, along whose changed dimensions it is constant."""
    for dim, size in enumerate(shape):
        if label.shape[dim] != size:
            label = label.narrow(dim, 0, 1)
    return label.expand(tuple(shape))


def reshaped(label: Tensor, shape: Sequence[int]) -> Tensor:
    """``label.reshape(shape)``, without memory for dimensions that do not vary and are not joined with ones that do."""
    thin, sizes = core(label), []
    for old, new in _blocks(label.shape, shape):
        moving = any(thin.shape[dim] > 1 for dim in old)
        for dim in old if moving else ():
            thin = thin.expand([label.shape[d] if d == dim else size for d, size in enumerate(thin.shape)])
        sizes += [shape[dim] if moving else 1 for dim in new]
    return thin.reshape(sizes).expand(tuple(shape))


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Neighbouring dimensions of two shapes that hold the same number of elements, as few as possible each."""
    found: list[tuple[list[int], list[int]]] = []
    left = right = 0
    while left < len(old) or right < len(new):
        block: tuple[list[int], list[int]] = ([], [])
        sizes = [1, 1]
        while not (block[0] or block[1]) or sizes[0] != sizes[1]:
            side = (
                0
                if left < len(old)
                and (sizes[0] < sizes[1] or right == len(new) or (sizes[0] == sizes[1] and not block[0]))
                else 1
            )
            place, given = (left, old) if side == 0 else (right, new)
            block[side].append(place)
            sizes[side] *= given[place]
            left, right = (left + 1, right) if side == 0 else (left, right + 1)
        found.append(block)
    return found
