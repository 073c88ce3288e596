"""Which positions of every value of a program stay when some atoms leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from workbench.graph.labels import Labels, flat, varied
from workbench.graph.provenance import Provenance

Kept = dict[int, Tensor]  # dimension -> the positions that stay, in order; only dimensions that lose some


@dataclass(frozen=True)
class Survivors:
    """What stays of the values of a program. ``gone`` says of each atom whether it leaves, bool ``[atoms]``."""

    provenance: Provenance
    gone: Tensor

    def of(self, name: str) -> Kept:
        """The positions of a value that stay; of the first of several."""
        labels = self.provenance.labels.get(name, ())
        return self._kept(labels[0] if isinstance(labels, list) and labels else labels)

    def each(self, name: str) -> list[Kept]:
        """The positions that stay of each of several values."""
        labels = self.provenance.labels.get(name, ())
        shapes = self.provenance.run.shapes[name]
        parts = labels if isinstance(labels, list) else [()] * len(shapes)
        return [self._kept(part) for part in parts]

    def shape(self, name: str) -> list[int]:
        """The shape of what stays of a value, at the batch of the example run."""
        shape = self.provenance.run.shapes[name]
        return self.shrunk(shape, self.of(name))

    def several(self, name: str) -> bool:
        """Whether a node returns several values."""
        return isinstance(self.provenance.run.shapes.get(name), list)

    def lose(self, node: Node) -> bool:
        """Whether a node reads or gives less than before."""
        found = [self.each(one.name) if self.several(one.name) else [self.of(one.name)]
                 for one in (node, *node.all_input_nodes)]  # fmt: skip
        return any(kept for each in found for kept in each)

    @staticmethod
    def shrunk(shape: Any, kept: Kept) -> list[int]:
        """A shape without what leaves."""
        return [len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape)]

    def _kept(self, labels: Labels) -> Kept:
        alive: dict[int, Tensor] = {}
        for label in labels:
            (dim,) = varied(label)
            atoms = flat(label).long()
            stay = (atoms < 0) | ~self.gone[atoms.clamp_min(0)]
            alive[dim] = stay & alive[dim] if dim in alive else stay
        return {dim: stay.nonzero().flatten() for dim, stay in alive.items() if not stay.all()}


def compact(tensor: Tensor, kept: Kept) -> Tensor:
    """A tensor without the positions that leave."""
    for dim, positions in kept.items():
        tensor = tensor.index_select(dim, positions)
    return tensor


def positions_along(shape: Any, dim: int) -> Tensor:
    """A tensor that holds, for every element, its own position along one dimension; it takes no memory elsewhere."""
    view = [1] * len(shape)
    view[dim] = -1
    return torch.arange(shape[dim], dtype=torch.float64).view(view).expand(tuple(shape))
