"""Sizes of tensors as functions of how many units the groups keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod

from workbench.graph.groups import ChannelGroup, Member
from workbench.graph.trace import ChannelGraph


@dataclass(frozen=True)
class Share:
    """The indices of one dimension that a group owns: ``counts[k]`` of them stay when k of its units do."""

    group: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """``fixed`` indices plus those that groups own."""

    fixed: int
    shares: tuple[Share, ...] = ()

    def at(self, kept: Mapping[str, int]) -> int:
        """The size when the groups keep so many units."""
        return self.fixed + sum(share.counts[kept[share.group]] for share in self.shares)


Sizes = Mapping[tuple[str, int], Size]


def sizes_of(graph: ChannelGraph, orders: Mapping[str, Sequence[int]] | None = None) -> Sizes:
    """The size of every dimension that some group shrinks.

    ``orders`` says, for each group, in which order its units leave: units need not hold equally many indices. A group
    without an order loses its last units first.
    """
    found: dict[tuple[str, int], Size] = {}
    for group in graph.groups:
        order = (orders or {}).get(group.name, range(group.units)[::-1])
        for member in group.members:
            place = member.tensor, member.dim
            before = found.get(place, Size(graph.program.tensors[member.tensor].shape[member.dim]))
            share = _share(group, member, order)
            found[place] = Size(before.fixed - share.counts[-1], (*before.shares, share))
    return found


def _share(group: ChannelGroup, member: Member, order: Sequence[int]) -> Share:
    from_last = (len(member.indices[unit]) for unit in reversed(order))
    return Share(group.name, tuple(accumulate(from_last, initial=0)))


@dataclass(frozen=True)
class Product:
    """``factor`` times the indices that stay of each share."""

    factor: int
    shares: tuple[Share, ...]

    def at(self, kept: Mapping[str, int]) -> int:
        """The product when the groups keep so many units."""
        return self.factor * prod(share.counts[kept[share.group]] for share in self.shares)


def products(name: str, shape: tuple[int, ...], sizes: Sizes) -> list[Product]:
    """The number of elements of a tensor, multiplied out."""
    return multiplied([sizes.get((name, dim), Size(size)) for dim, size in enumerate(shape)])


def multiplied(factors: Sequence[Size]) -> list[Product]:
    """A product of sums as a sum of products."""
    parts = [[(size.fixed, ()), *((1, (share,)) for share in size.shares)] for size in factors]
    found = []
    for chosen in product(*parts):
        factor = prod(fixed for fixed, _ in chosen)
        if factor:
            found.append(Product(factor, tuple(share for _, shares in chosen for share in shares)))
    return found
