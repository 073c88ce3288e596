"""Atoms: one integer for every index of every dimension of every tensor a model owns.

Atoms that can only leave together are united. Unions are collected as arrays and resolved in one go by scipy's
connected components, so that a model with a million atoms costs milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

NOTHING = -1.0  # the label of an element that comes from no index: padding


@dataclass(frozen=True)
class Reason:
    """Why an index can never leave: the op, the layer it is in, and what can be done about it."""

    op: str
    layer: str
    why: str
    remedy: str


@dataclass
class Atoms:
    """Creates atoms, unites them, freezes them and marks what makes and what reads them."""

    count: int = 0
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    frozen: list[tuple[np.ndarray, Reason]] = field(default_factory=list)
    made: list[np.ndarray] = field(default_factory=list)
    read: list[np.ndarray] = field(default_factory=list)

    def create(self, size: int) -> Tensor:
        """``size`` new atoms, float64 ``[size]``: im2col and upsampling refuse integers."""
        self.count += size
        return torch.arange(self.count - size, self.count, dtype=torch.float64)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Elements at the same place of two labels (broadcast) leave together."""
        one, other = (side.reshape(-1).long().numpy() for side in torch.broadcast_tensors(left, right))
        both = (one >= 0) & (other >= 0) & (one != other)
        if both.any():
            self.pairs.append((one[both], other[both]))

    def freeze(self, label: Tensor, reason: Reason) -> None:
        """The indices named by a label can never leave."""
        self.frozen.append((_named(label), reason))

    def make(self, label: Tensor) -> None:
        """The indices named by a label are outputs of a layer."""
        self.made.append(_named(label))

    def consume(self, label: Tensor) -> None:
        """The indices named by a label are summed over by a layer."""
        self.read.append(_named(label))

    def classes(self) -> np.ndarray:
        """The class of each atom, int ``[count]``; classes are numbered by their first atom."""
        rows, columns = (
            np.concatenate([np.empty(0, np.int64), *(pair[side] for pair in self.pairs)]) for side in (0, 1)
        )
        edges = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(self.count, self.count))
        return connected_components(edges, directed=False)[1].astype(np.int64)


def _named(label: Tensor) -> np.ndarray:
    atoms = np.unique(label.long().numpy())
    return atoms[atoms >= 0]
