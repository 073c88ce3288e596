"""Patterns: which elements of a tensor are masked together, and which of these units compete.

A pattern arranges a tensor as ``[sets, units, elements]``: the elements of a unit leave together, the units of one set
compete. It refuses a shape that does not divide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from workbench.sparsify.criteria.base import Reduce
from workbench.sparsify.sites import Site


def average(cells: Tensor) -> Tensor:
    """A unit is worth the mean of its elements, so that large and small units can be compared."""
    return cells.mean(-1)


def total(cells: Tensor) -> Tensor:
    """A unit is worth the sum of its elements."""
    return cells.sum(-1)


def greatest(cells: Tensor) -> Tensor:
    """A unit is worth its best element."""
    return cells.amax(-1)


class Pattern:
    """``reduce`` makes one score of those of a unit's elements."""

    reduce: Reduce

    def cells(self, site: Site, tensor: Tensor) -> Tensor:
        """A tensor of the site's shape as ``[sets, units, elements]``.

        Raises
        ------
        ValueError
            The shape does not divide.
        """
        raise NotImplementedError

    def most(self, units: int) -> int:
        """How many of the ``units`` of a set may leave."""
        return units


@dataclass(frozen=True)
class Elements(Pattern):
    """Single elements, which compete in the whole tensor, or with those of the same output (Wanda)."""

    by_row: bool = False
    reduce: Reduce = field(default=average, repr=False)

    def cells(self, site: Site, tensor: Tensor) -> Tensor:
        if not self.by_row:
            return tensor.reshape(1, -1, 1)
        rows = site.turned(tensor) if tensor.ndim > 1 else tensor
        return rows.reshape(len(rows), -1, 1)


@dataclass(frozen=True)
class NofM(Pattern):
    """Of every ``m`` elements in a row along the inputs, at least ``n`` stay, as NVIDIA's 2:4 says it.

    Intel's "N:M" counts those that are removed: its 2:4 is ours, its 1:4 is ``NofM(3, 4)``. A convolution's inputs lie
    side by side at each place of the kernel. A share below ``(m - n) / m`` leaves more in every group, as many in each.
    """

    n: int = 2
    m: int = 4
    reduce: Reduce = field(default=average, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ValueError(f"{self.n}:{self.m} keeps {self.n} of {self.m}; keep at least 1, and fewer than all")

    def cells(self, site: Site, tensor: Tensor) -> Tensor:
        inputs = _matrix(site, tensor, self)
        width = site.fans[1]
        if width % self.m:
            raise ValueError(
                f"{site.name} has {width} inputs, which {self.m} does not divide, so it cannot have {self.n}:{self.m}; "
                "ignore this layer, or choose another pattern for it"
            )
        return inputs.reshape(-1, self.m, 1)

    def most(self, units: int) -> int:
        return self.m - self.n


@dataclass(frozen=True)
class Blocks(Pattern):
    """Blocks of ``rows`` outputs by ``columns`` of the matrix ``[out, kernel places x in]``."""

    rows: int
    columns: int = 1
    reduce: Reduce = field(default=average, repr=False)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"blocks of {self.rows} x {self.columns} are none; give 1 or more of each")

    def cells(self, site: Site, tensor: Tensor) -> Tensor:
        matrix = _matrix(site, tensor, self)
        height, width = matrix.shape
        if height % self.rows or width % self.columns:
            raise ValueError(
                f"{site.name} is a matrix of {height} x {width}, which blocks of {self.rows} x {self.columns} do not "
                "divide; ignore this layer, or choose another block for it"
            )
        parts = matrix.reshape(height // self.rows, self.rows, width // self.columns, self.columns)
        return parts.transpose(1, 2).reshape(1, -1, self.rows * self.columns)


@dataclass(frozen=True)
class Slices(Pattern):
    """All with the same place in dimension ``dim`` of ``[out, in / groups, kernel...]``."""

    dim: int = 0
    reduce: Reduce = field(default=average, repr=False)

    def cells(self, site: Site, tensor: Tensor) -> Tensor:
        if not 0 <= self.dim < tensor.ndim:
            raise ValueError(
                f"{site.name} has {tensor.ndim} dimensions and none numbered {self.dim}; give 0 to {tensor.ndim - 1}"
            )
        turned = (site.turned(tensor) if tensor.ndim > 1 else tensor).movedim(self.dim, 0)
        return turned.reshape(1, len(turned), -1)


def rows(reduce: Reduce = average) -> Slices:
    """Output channels of a tensor: filters of a convolution, rows of a linear layer."""
    return Slices(0, reduce)


def columns(reduce: Reduce = average) -> Slices:
    """Input channels of a tensor."""
    return Slices(1, reduce)


def _matrix(site: Site, tensor: Tensor, pattern: Pattern) -> Tensor:
    """``[out, kernel places x in]``, the inputs of one place side by side."""
    if tensor.ndim < 2:
        raise ValueError(f"{site.name} has {tensor.ndim} dimension; {pattern} is for weights; name other layers")
    turned = site.turned(tensor).movedim(1, -1)
    return turned.reshape(len(turned), -1)
