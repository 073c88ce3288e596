"""Atoms: one integer for every index of every dimension of every tensor a model owns or makes.

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

from workbench.graph.labels import NOTHING, core


@dataclass(frozen=True)
class Reason:
    """Why an index can never leave: the op, the layer it is in, and what can be done about it."""

    op: str
    layer: str
    why: str
    remedy: str


FIXED = ("it meets a tensor whose size there is fixed", "keep the layer that makes it at full width")


@dataclass
class Atoms:
    """Creates atoms, unites them, freezes them and marks what makes and what reads them.

    Rules are run in passes, until a pass unites nothing new. In every pass but the first an atom is named by the
    first of its class, so that a rule sees what the passes before have found. What is frozen is taken from the last
    pass: earlier ones may see indices apart that a later op unites.
    """

    head_dim: bool = False  # whether features of attention heads leave, not whole heads
    count: int = 0
    place: tuple[str, str] = ("", "")  # the op whose rule is run, and its layer
    first: np.ndarray | None = None  # atom -> the first atom of its class, after a pass
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    frozen: list[tuple[np.ndarray, Reason]] = field(default_factory=list)
    nailed: list[tuple[np.ndarray, Reason]] = field(default_factory=list)  # frozen whatever later passes find
    approximate: list[tuple[np.ndarray, str]] = field(default_factory=list)
    made: list[np.ndarray] = field(default_factory=list)
    read: list[np.ndarray] = field(default_factory=list)
    altered: set[str] = field(default_factory=set)  # nodes that mean something else once indices leave
    # node -> operands, each with the dimension along which it is summed with another activation
    products: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    fresh: dict[tuple[str, int], Tensor | None] = field(default_factory=dict)  # (node, key) -> atoms that an op made

    def create(self, size: int) -> Tensor:
        """``size`` new atoms, float64 ``[size]``: im2col and upsampling refuse integers."""
        self.count += size
        return torch.arange(self.count - size, self.count, dtype=torch.float64)

    def now(self, atoms: Tensor) -> Tensor:
        """Atoms as this pass names them."""
        if self.first is None:
            return atoms
        new = np.arange(len(self.first), self.count)  # made in this pass
        known = np.concatenate([self.first, new])
        for some, _ in self.nailed:
            known[np.isin(known, known[some])] = NOTHING
        return torch.from_numpy(known)[atoms.long()].double()

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Elements at the same place of two labels (broadcast) leave together; never, where one is no index."""
        one, other = (side.reshape(-1).long().numpy() for side in torch.broadcast_tensors(core(left), core(right)))
        both = (one >= 0) & (other >= 0) & (one != other)
        if both.any():
            self.pairs.append((one[both], other[both]))
        alone = (one >= 0) != (other >= 0)
        if alone.any():
            self.frozen.append((np.unique(np.maximum(one, other)[alone]), Reason(*self.place, *FIXED)))

    def freeze(self, label: Tensor, reason: Reason) -> None:
        """The indices named by a label can never leave."""
        self.frozen.append((_named(label), reason))

    def nail(self, label: Tensor, reason: Reason) -> None:
        """The indices named by a label can never leave, and are no indices from the next pass on."""
        self.nailed.append((_named(label), reason))

    def approximates(self, label: Tensor, node: str, what: str) -> None:
        """Losing indices named by a label changes what a node means."""
        self.approximate.append((_named(label), what))
        self.altered.add(node)

    def make(self, label: Tensor) -> None:
        """The indices named by a label are outputs of a layer."""
        if self.first is None:
            self.made.append(_named(label))

    def consume(self, label: Tensor) -> None:
        """The indices named by a label are summed over by a layer."""
        if self.first is None:
            self.read.append(_named(label))

    def settle(self) -> bool:
        """End a pass. True where it united something, so that another is needed."""
        classes = self.classes()
        first = np.full(classes.max(initial=-1) + 1, self.count, np.int64)
        np.minimum.at(first, classes, np.arange(self.count))
        named = first[classes]
        before = np.arange(self.count) if self.first is None else self.first
        changed = len(before) != len(named) or bool((before != named).any())
        self.first = named
        if changed:
            self.frozen.clear()
            self.approximate.clear()
            self.altered.clear()
        return changed

    @property
    def representatives(self) -> np.ndarray:
        """The first atom of each atom's class, int ``[count]``; known once the passes have settled."""
        if self.first is None:
            raise AssertionError("no pass has been settled")
        return self.first

    def classes(self) -> np.ndarray:
        """The class of each atom, int ``[count]``; classes are numbered by their first atom."""
        rows, columns = (
            np.concatenate([np.empty(0, np.int64), *(pair[side] for pair in self.pairs)]) for side in (0, 1)
        )
        edges = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(self.count, self.count))
        return connected_components(edges, directed=False)[1].astype(np.int64)


def _named(label: Tensor) -> np.ndarray:
    atoms = np.unique(core(label).long().numpy())
    return atoms[atoms >= 0]
