"""Sizes of tensors as formulas of how many units the groups keep: a layer's MACs before anything is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod

from workbench.graph.trace import ChannelGraph, Layer


@dataclass(frozen=True)
class Size:
    """``fixed`` plus, for each group, ``per_unit`` indices for every unit that stays."""

    fixed: int
    per_unit: Mapping[str, int] = field(default_factory=dict)

    def at(self, kept: Mapping[str, int]) -> int:
        """The size when the groups keep so many units."""
        return self.fixed + sum(each * kept[group] for group, each in self.per_unit.items())


Sizes = Mapping[tuple[str, int], Size]


def sizes_of(graph: ChannelGraph) -> Sizes:
    """The formula of every dimension that some group shrinks.

    Where the units of a group hold different numbers of indices, the largest number stands for all: the cost of a plan
    is then an upper bound.
    """
    found: dict[tuple[str, int], Size] = {}
    for group in graph.groups:
        for member in group.members:
            place = member.tensor, member.dim
            before = found.get(place, Size(graph.program.tensors[member.tensor].shape[member.dim]))
            owned = sum(map(len, member.indices))
            most = max(map(len, member.indices))
            found[place] = Size(before.fixed - owned, {**before.per_unit, group.name: most})
    return found


@dataclass(frozen=True)
class Product:
    """``factor`` times the kept units of each named group; a group named twice counts twice."""

    factor: int
    groups: tuple[str, ...]


def products(name: str, shape: tuple[int, ...], sizes: Sizes, times: int = 1) -> list[Product]:
    """The number of elements of a tensor, ``times`` over, multiplied out into products of kept units."""
    factors = [sizes.get((name, dim), Size(size)) for dim, size in enumerate(shape)]
    parts = [[((), size.fixed), *(((group,), each) for group, each in size.per_unit.items())] for size in factors]
    found = []
    for chosen in product(*parts):
        factor = times * prod(each for _, each in chosen)
        if factor:
            found.append(Product(factor, tuple(group for groups, _ in chosen for group in groups)))
    return found


def layer_macs(layer: Layer, sizes: Sizes, kept: Mapping[str, int]) -> int:
    """The MACs of a layer for one sample when the groups keep so many units."""
    return layer.positions * prod(
        sizes.get((layer.weight, dim), Size(size)).at(kept) for dim, size in enumerate(layer.shape)
    )
